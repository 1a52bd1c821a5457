"""The one cookie: how it is named, written and read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

__all__ = ["clear_cookie", "cookie_name", "read_cookie", "write_cookie"]


def cookie_name(*, is_https: bool) -> str:
    """With the prefix that forbids everybody but this very host to set it, where https allows one."""
    return "__Host-cxr" if is_https else "cxr"


def read_cookie(headers: Headers, *, is_https: bool) -> str:
    """The value that the browser sent; empty when there is none."""
    return cookie_parser(headers.get("cookie", "")).get(cookie_name(is_https=is_https), "")


def write_cookie(value: str, *, is_https: bool, is_framed: bool) -> str:
    """A Set-Cookie header. A page that may be framed by another site needs a partitioned third-party cookie.

    Otherwise Lax, not Strict: with Strict, whoever follows a link to the app would be given a new cookie,
    and the page that is already open would lose its study. What changes anything checks the Origin anyway.
    """
    secure = "; Secure" if is_https else ""
    site = "None; Partitioned" if is_framed and is_https else "Lax"
    return f"{cookie_name(is_https=is_https)}={value}; Path=/; HttpOnly; SameSite={site}{secure}"


def clear_cookie(*, is_https: bool, is_framed: bool) -> str:
    return write_cookie("", is_https=is_https, is_framed=is_framed) + "; Max-Age=0"
