"""The two ways to run: a public demonstration, and a hospital that knows who asks.

Knows settings; refuses to start where a setting would leave a door open that its profile promises to shut.
"""

from __future__ import annotations

from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import LOOPBACK, Settings

__all__ = ["check_profile"]


def check_profile(settings: Settings) -> None:
    """Raise SettingsError where `onprem` would be reached by somebody who did not log in."""
    web = settings.web
    if not web.is_onprem or settings.host in LOOPBACK:
        return
    if not web.has_login:
        raise SettingsError(
            f"The profile is 'onprem', the address is {settings.host}, and nobody has to log in.",
            hint="Set CXR_USERS_FILE, or CXR_USER_HEADER with CXR_TRUSTED_PROXIES, or listen on 127.0.0.1.",
        )
    if not web.public_url.startswith("https://") and not web.trusted_proxies:
        raise SettingsError(
            "The profile is 'onprem' and passwords would travel unencrypted.",
            hint="Put a proxy with TLS in front and set CXR_PUBLIC_URL to its https:// address.",
        )
    if web.audit_log is None:
        raise SettingsError(
            "The profile is 'onprem' and there is no audit log.",
            hint="Set CXR_AUDIT_LOG to a file in a folder that only the app may write.",
        )
