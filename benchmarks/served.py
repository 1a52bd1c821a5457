"""An app in a process of its own, its temporary files in a folder of its own, watched from outside.

Knows how to start, measure, kill and search it; knows nothing of what it serves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["GENEROUS", "Load", "Served", "free_port"]

# All visitors of a test come from one address and ask more in a minute than a person does.
GENEROUS = {
    "CXR_ANSWERS_PER_MINUTE": "10000",
    "CXR_ANSWERS_PER_MINUTE_PER_ADDRESS": "10000",
    "CXR_MAX_ANSWERS_PER_ADDRESS": "1000",
    "CXR_REQUESTS_PER_MINUTE": "100000",
    "CXR_MAX_PAGES_PER_ADDRESS": "1000",
    "CXR_MAX_PAGES": "1000",
}


class Load(NamedTuple):
    """What the app takes at one moment, its engine and decoder included in `rss_bytes`."""

    rss_bytes: int
    num_threads: int
    num_descriptors: int


@dataclass
class Served:
    """One app. `folder` holds all that it may write (`tmp`, `home`) and what it said (`out`)."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        command: tuple[str, ...] = ("benchmarks/scripted_app.py",),
        timeout_s: float = 600.0,
    ) -> Served:
        """Start and wait until it answers. A second start in the same folder is the same machine again."""
        for name in ("tmp", "home"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        own = {
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "home"),
            "CXR_PORT": str(port),
            "CXR_HOST": "127.0.0.1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
        }
        with (folder / "out").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**_inherited(), **own, **(environment or {})},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        served = cls(folder, port, process)
        served.wait_until_it_answers(timeout_s)
        return served

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """All that it wrote to stdout and stderr since its first start."""
        return (self.folder / "out").read_text("utf-8", errors="replace")

    def wait_until_it_answers(self, timeout_s: float) -> float:
        """Seconds until the page was there; raises TimeoutError with what the app said."""
        start = time.monotonic()
        while time.monotonic() - start < timeout_s:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self.address, timeout=10).status_code == 200:
                    return time.monotonic() - start
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.kill()
        raise TimeoutError(f"the app did not answer: {self.said[-2000:]}")

    def stop(self, timeout_s: float = 120.0) -> int:
        """End it as an operator does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9 of the app alone: its children notice by themselves, or do not."""
        self.process.kill()
        self.process.wait()

    def children(self) -> dict[int, str]:
        """Its processes by number, with their command lines."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found[child.pid] = " ".join(child.cmdline())
        return found

    def engines(self) -> list[int]:
        return [pid for pid, command in self.children().items() if "spawn_main" in command]

    def decoders(self) -> list[int]:
        """The warm process that forks a child for each film, and those children."""
        return [pid for pid, command in self.children().items() if "imaging.child" in command]

    def load(self) -> Load:
        own = psutil.Process(self.process.pid)
        rss = own.memory_info().rss
        for child in own.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # a decoding child lives for one film
                rss += child.memory_info().rss
        return Load(rss, own.num_threads(), own.num_fds())

    def files(self) -> list[Path]:
        """Every file and directory below its temporary folder.

        Not counted: the lock of the directory of uploads, and `gradio/vibe_edit_history`, which Gradio makes
        empty whenever it is mounted.
        """
        ignored = {"gradio", "vibe_edit_history", ".lock"}
        return [p for p in (self.folder / "tmp").rglob("*") if p.name not in ignored]

    def search(self, *needles: str | bytes) -> Iterator[str]:
        """Where on its disk, or in what it said, one of `needles` stands: in a name or in content."""
        wanted = [n.encode() if isinstance(n, str) else n for n in needles]
        for path in self.folder.rglob("*"):
            if any(needle in str(path.relative_to(self.folder)).encode() for needle in wanted):
                yield f"the name {path}"
            if path.is_file() and (found := [n for n in wanted if n in path.read_bytes()]):
                yield f"{found[0][:40]!r} in {path.relative_to(self.folder)}"


def _inherited() -> dict[str, str]:
    """The environment without settings of this process: of another app, or of Gradio for it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("CXR_", "GRADIO_"))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
