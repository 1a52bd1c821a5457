"""Logging in: a file of users with scrypt digests, or a trusted proxy that has done it; throttled.

Knows names and digests of passwords, and the one small page on which they are typed. The page holds no
script and loads nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from html import escape
from pathlib import Path

from cxr_assistant.errors import SettingsError

__all__ = ["MIN_PASSWORD_CHARS", "Users", "add_user", "login_page"]

MIN_PASSWORD_CHARS = 12
_COST = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024, "dklen": 32}  # about 0.1 s, 32 MiB
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-@")


class Users:
    """The users of a file with lines `name:salt:digest`; a change of the file counts at once."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError when the file cannot be read, or holds nobody."""
        self._path = path
        if not self._read():
            raise SettingsError(
                "The file of users holds nobody.", hint="Add one: python -m cxr_assistant user add NAME"
            )

    def check(self, name: str, password: str) -> bool:
        """Whether the password is that of the user; an unknown name costs as much time as a known one."""
        salt, digest = self._read().get(name, (b"\0" * 16, b""))
        return hmac.compare_digest(_digest(password, salt), digest)

    def _read(self) -> dict[str, tuple[bytes, bytes]]:
        try:
            lines = self._path.read_text("ascii").splitlines()
            parts = [line.split(":") for line in lines if line and not line.startswith("#")]
            return {name: (bytes.fromhex(salt), bytes.fromhex(digest)) for name, salt, digest in parts}
        except (OSError, ValueError) as error:
            raise SettingsError(
                "The file of users cannot be read.",
                hint="Check CXR_USERS_FILE; make the file with: python -m cxr_assistant user add NAME",
            ) from error


def add_user(path: Path, name: str, password: str) -> None:
    """Write a user into the file, in the place of an earlier one of that name. Raises SettingsError."""
    if not name or set(name) - _NAME_CHARS or len(name) > 64:
        raise SettingsError("The name may hold a to z, 0 to 9 and . _ - @, up to 64 characters.")
    if len(password) < MIN_PASSWORD_CHARS:
        raise SettingsError(f"The password has {len(password)} characters; needed: {MIN_PASSWORD_CHARS}.")
    salt = secrets.token_bytes(16)
    kept = path.read_text("ascii").splitlines() if path.exists() else []
    kept = [line for line in kept if not line.startswith(f"{name}:")]
    lines = [*kept, f"{name}:{salt.hex()}:{_digest(password, salt).hex()}"]
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    fresh.replace(path)


def login_page(problem: str = "") -> str:
    """The page on which a name and a password are typed."""
    said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>CXR Assistant: log in</title>'
        '<meta name="viewport" content="width=device-width"></head><body><main><h1>CXR Assistant</h1>'
        f'{said}<form method="post" action="login">'
        '<p><label>Name <input name="name" autocomplete="username" required autofocus></label></p>'
        '<p><label>Password <input name="password" type="password" autocomplete="current-password" required>'
        '</label></p><p><button type="submit">Log in</button></p></form>'
        "<p>Research preview. Not a medical device, not for clinical use.</p></main></body></html>"
    )


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_COST)
