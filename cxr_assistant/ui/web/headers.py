"""What every response says to the browser: what it may load, who may frame it, and that nothing is kept.

Knows HTTP headers and one page's inline scripts; knows no visitor.
"""

from __future__ import annotations

import re

from starlette.types import Message

__all__ = ["content_security_policy", "secured", "with_nonces"]

# Gradio's HTML panels build their templates and scripts with `Function`, and styles are set on elements:
# these two allowances are the least that its front end runs with. An inline script needs the page's nonce.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "worker-src 'self' blob:; form-action 'self'; base-uri 'self'; object-src 'none'; "
    "frame-ancestors {ancestors}"
)
_CLOSED = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors {ancestors}"
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"x-dns-prefetch-control", b"off"),
)
_REPLACED = {name for name, _ in _ALWAYS} | {b"content-security-policy", b"x-frame-options", b"server"}
_INLINE_SCRIPT = re.compile(rb"<script(?=[\s>])(?![^>]*\ssrc=)")


def content_security_policy(nonce: str, ancestors: str) -> str:
    """The policy of the page (with a nonce), or of everything that is no page (without)."""
    whose = ancestors or "'none'"
    return _POLICY.format(nonce=nonce, ancestors=whose) if nonce else _CLOSED.format(ancestors=whose)


def secured(start: Message, *, ancestors: str, is_https: bool, nonce: str = "", may_cache: bool) -> Message:
    """The start of a response with our headers in the place of whatever was there."""
    kept = [(n, v) for n, v in start.get("headers", []) if n.lower() not in _REPLACED]
    added = [*_ALWAYS, (b"content-security-policy", content_security_policy(nonce, ancestors).encode())]
    if not ancestors:
        added.append((b"x-frame-options", b"DENY"))
    if is_https:
        added.append((b"strict-transport-security", b"max-age=31536000"))
    if not may_cache:
        kept = [(n, v) for n, v in kept if n.lower() != b"cache-control"]
        added.append((b"cache-control", b"no-store"))
    return {**start, "headers": [*kept, *added]}


def with_nonces(page: bytes, nonce: str, early_scripts: bytes = b"") -> bytes:
    """The page with `early_scripts` in its head, and every inline script signed by `nonce`.

    Only the page's own template is signed: what a person or a model wrote is never part of it.
    """
    page = page.replace(b"</head>", early_scripts + b"</head>", 1)
    return _INLINE_SCRIPT.sub(b'<script nonce="' + nonce.encode() + b'"', page)
