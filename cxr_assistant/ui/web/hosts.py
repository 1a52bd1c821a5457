"""Under which names the app answers, from where it is spoken to, and which origin may change anything.

Knows the Host, Origin and Forwarded headers and which proxies are believed; knows no visitor.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from cxr_assistant.settings import LOOPBACK, Settings

__all__ = ["Front", "Hosts"]

_HOP_HEADERS = (b"x-forwarded-", b"forwarded", b"x-real-ip", b"x-gradio-server", b"x-original-")


@dataclass(frozen=True)
class Front:
    """How a request reached us: the caller's address, the scheme and the host as the browser sees them."""

    address: str
    scheme: str
    host: str
    is_proxied: bool = False  # a proxy that we trust stands in between

    @property
    def is_https(self) -> bool:
        return self.scheme == "https"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"


class Hosts:
    """The names of this app and the proxies that it believes."""

    def __init__(self, settings: Settings) -> None:
        self._proxies = tuple(ip_network(p, strict=False) for p in settings.web.trusted_proxies)
        public = urlsplit(settings.web.public_url)
        self._public_host = public.netloc.lower()
        given = {*LOOPBACK, (public.hostname or "").lower()}
        # Without a public address, the names of this machine are good enough.
        own = set() if self._public_host else {settings.host.lower(), socket.gethostname().lower()}
        self._names = (given | own) - {"", "0.0.0.0", "::"}

    def front(self, scope: Scope) -> Front:
        """What is known of the way a request took; only a trusted proxy's word on it counts."""
        headers = Headers(scope=scope)
        peer = (scope.get("client") or ("", 0))[0]
        front = Front(peer, scope.get("scheme", "http"), headers.get("host", "").lower())
        if not self._is_proxy(peer):
            return front
        hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        unknown = [hop for hop in hops if not self._is_proxy(hop)]
        scheme = headers.get("x-forwarded-proto", front.scheme).split(",")[0].strip()
        return replace(
            front,
            address=unknown[-1] if unknown else peer,
            scheme=scheme if scheme in ("http", "https") else front.scheme,
            host=headers.get("x-forwarded-host", front.host).split(",")[0].strip().lower(),
            is_proxied=True,
        )

    def behind(self, scope: Scope, front: Front) -> Scope:
        """The scope as the app may see it: our own finding in the place of every forwarding header."""
        kept = [
            (name, value)
            for name, value in scope["headers"]
            if not name.lower().startswith(_HOP_HEADERS) and name.lower() != b"host"
        ]
        return {
            **scope,
            "headers": [*kept, (b"host", front.host.encode("latin-1"))],
            "scheme": front.scheme,
            "client": (front.address, 0),
        }

    def is_ours(self, host: str) -> bool:
        """Whether `host` is a name of this app. A literal address cannot be rebound by anybody's DNS."""
        if host == self._public_host:
            return True
        name = urlsplit(f"//{host}").hostname or ""
        return name in self._names or (not self._public_host and _is_address(name))

    def may_change(self, headers: Headers, front: Front) -> bool:
        """Whether a request that changes something comes from our own page, or from no page at all."""
        origin = headers.get("origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return False
        return origin is None or origin.lower() == front.origin

    def _is_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._proxies)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
