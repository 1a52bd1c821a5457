"""The app talks to nobody: every process of it reports where it wants to connect to.

What Python's own sockets do is seen; a library that brought a network stack of its own would not be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.served import Served
from benchmarks.visitor import Visitor
from tests.imaging import builders

# Python runs a module of this name at the start of every process, before any other code.
GUARD = """
import os, sys

def note(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = args[1][0] if isinstance(args[1], tuple) else "local"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        where = args[0]
    else:
        return
    if isinstance(where, bytes):
        where = where.decode()
    if where not in (None, "local", "localhost", "127.0.0.1", "::1", ""):
        with open(os.environ["OUTBOUND_NOTES"], "a") as notes:
            notes.write(f"{event} {where}\\n")

sys.addaudithook(note)
with open(os.environ["OUTBOUND_NOTES"] + ".watched", "a") as watched:
    watched.write(f"{sys.orig_argv}\\n")
"""


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """An environment in which connections are written down, with no switch set that forbids them."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    return {
        "PYTHONPATH": str(tmp_path / "guard"),
        "OUTBOUND_NOTES": str(tmp_path / "notes"),
        "GRADIO_ANALYTICS_ENABLED": "True",
        "HF_HUB_OFFLINE": "0",
    }


@pytest.mark.requirement("P8")
def test_the_app_opens_no_connection_to_anywhere(tmp_path: Path, watched: dict[str, str]) -> None:
    served = Served.start(tmp_path / "machine", watched, command=("app.py",))
    try:
        with Visitor(served.address) as visitor:
            assert "/thumbnail" in visitor.add(builders.dicom())
            assert visitor.ask("Is there a pleural effusion?")
    finally:
        served.stop()
    processes = (tmp_path / "notes.watched").read_text()
    # The web process and the engine; a decoder may open no socket at all.
    assert "app.py" in processes and "spawn_main" in processes
    assert not (tmp_path / "notes").exists(), (tmp_path / "notes").read_text()


def test_a_connection_to_elsewhere_would_be_seen(tmp_path: Path, watched: dict[str, str]) -> None:
    """The address is one of those kept for documentation (RFC 5737): nobody answers there."""
    lines = "import socket\ns = socket.socket()\ns.settimeout(0.01)\ns.connect(('203.0.113.1', 9))"
    subprocess.run(
        [sys.executable, "-c", lines], check=False, env={**os.environ, **watched}, capture_output=True
    )
    assert (tmp_path / "notes").read_text() == "socket.connect 203.0.113.1\n"
