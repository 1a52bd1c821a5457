"""Who accepted which terms: remembered once per user, never assumed.

Knows a checkpoint's licence and one small file of the user's; knows nothing about weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cxr_assistant.checkpoints.spec import Checkpoint
from cxr_assistant.errors import LicenceNotAccepted

__all__ = ["accept_licence", "is_licence_accepted", "require_licence"]


def accept_licence(checkpoint: Checkpoint, environ: Mapping[str, str] | None = None) -> None:
    """Remember for this user that the terms of `checkpoint`, as they are now, were accepted."""
    path = _path(environ)
    accepted = _read(path) | {checkpoint.name: _fingerprint(checkpoint)}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(accepted, indent=2, sort_keys=True) + "\n", "utf-8")
    os.replace(fresh, path)


def is_licence_accepted(checkpoint: Checkpoint, environ: Mapping[str, str] | None = None) -> bool:
    """True when nothing needs to be accepted, or these very terms were; changed terms are asked again."""
    if not checkpoint.licence.needs_acceptance:
        return True
    return _read(_path(environ)).get(checkpoint.name) == _fingerprint(checkpoint)


def require_licence(checkpoint: Checkpoint, environ: Mapping[str, str] | None = None) -> None:
    """Raise LicenceNotAccepted, with the terms, unless `is_licence_accepted`."""
    if is_licence_accepted(checkpoint, environ):
        return
    licence = checkpoint.licence
    raise LicenceNotAccepted(
        f"{checkpoint.title} is under the {licence.name}: {licence.terms}",
        hint=f"Read {licence.url}. Then accept in the model menu, or with "
        f"--accept-licence {checkpoint.name}.",
    )


def _fingerprint(checkpoint: Checkpoint) -> str:
    licence = checkpoint.licence
    return hashlib.sha256(f"{licence.name}\n{licence.url}\n{licence.terms}".encode()).hexdigest()


def _path(environ: Mapping[str, str] | None) -> Path:
    env = os.environ if environ is None else environ
    folder = Path(env.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return folder / "cxr-assistant" / "licences.json"


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # not readable is not accepted: the person is asked again
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}
