"""A small Hub on the loopback interface: it speaks the protocol that the real client expects.

Metadata (HEAD with commit, ETag, linked ETag and size), resolve with ranges and a redirect to a storage
path, model_info with LFS hashes, gated and missing repositories. Misbehaviour is asked for by attribute.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from cxr_assistant.checkpoints.spec import get_checkpoint

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".model")


@dataclass
class Repository:
    """One revision of one repository; `files` maps paths to contents."""

    name: str
    revision: str
    files: dict[str, bytes]
    is_gated: bool = False

    @classmethod
    def of_folder(cls, name: str, revision: str, folder: Path, **options: Any) -> Repository:
        found = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
        return cls(name, revision, found, **options)

    def etag(self, path: str) -> str:
        """What the Hub promises: SHA-256 of LFS files, the git blob hash of the others."""
        content = self.files[path]
        if path.endswith(LFS_SUFFIXES):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def published(name: str) -> list[Repository]:
    """The repositories that the checkpoint `name` is made of, with the golden fixture's files in them."""
    checkpoint = get_checkpoint(name)
    pinned = dict.fromkeys((file.repository, file.revision) for file in checkpoint.files)
    folders = [GOLDEN / folder for folder in _FOLDERS[name]]
    return [Repository.of_folder(*where, folder) for where, folder in zip(pinned, folders, strict=True)]


_FOLDERS = {  # in the order of the checkpoints' own lists of files
    "chexagent": ("chexagent_tiny", "chexagent_tiny/vision_tower_repo"),
    "cxr-llava": ("cxr_llava_tiny/checkpoint",),
    "llava-rad": ("llava_rad_tiny/llava-rad", "llava_rad_tiny/vicuna-like"),
}


@contextmanager
def online(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Hub's client may use the network, and does not wait before it tries again."""
    from huggingface_hub import close_session, constants

    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    close_session()
    yield
    close_session()


@dataclass
class LoopbackHub:
    """Serves `repositories`; counts bytes and requests; cuts or corrupts what it is told to.

    cut_after: path -> how many bytes of it to send before the connection drops, `num_cuts` times.
    flipped: paths whose content has one byte flipped on the way. bare_refusal: a status for everything,
    without a word why. login_page: what a network answers that wants its visitors to sign in first.
    """

    repositories: list[Repository]
    token: str = "hf_reader"
    cut_after: dict[str, int] = field(default_factory=dict)
    num_cuts: int = 10**6
    flipped: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    resolved: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens_at_storage: list[str] = field(default_factory=list)
    wrong_commit: str | None = None
    bare_refusal: int | None = None
    login_page: bool = False
    delay_s: float = 0.0

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(_Handler):
            loopback = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def find(self, name: str) -> Repository | None:
        return next((r for r in self.repositories if r.name == name), None)


class _Handler(BaseHTTPRequestHandler):
    loopback: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        if self.loopback.bare_refusal:
            self._send(self.loopback.bare_refusal, {"Content-Length": "0"}, b"")
            return
        if self.loopback.login_page:
            self._send(200, {"Content-Type": "text/html", "Content-Length": "12"}, b"<h1>Hi</h1>\n")
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._model_info("/".join(parts[2:4]), parts[5])
        elif parts[0] == "storage":
            self._content("/".join(parts[1:3]), "/".join(parts[3:]), with_body=with_body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body=with_body)
        else:
            self._refuse(404, "EntryNotFound")

    def _allowed(self, name: str, revision: str) -> Repository | None:
        repository = self.loopback.find(name)
        if repository is None:
            # The real Hub does not tell strangers which repositories exist.
            self._refuse(404 if self._is_known() else 401, "RepoNotFound")
        elif repository.is_gated and not self._is_known():
            self._refuse(401, "GatedRepo")
        elif repository.is_gated and "allowed" not in self.headers.get("Authorization", ""):
            self._refuse(403, "GatedRepo")
        elif repository.revision != revision:
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _is_known(self) -> bool:
        return self.headers.get("Authorization", "").startswith(f"Bearer {self.loopback.token}")

    def _model_info(self, name: str, revision: str) -> None:
        repository = self._allowed(name, revision)
        if repository is None:
            return
        siblings = []
        for path, content in repository.files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": repository.etag(path)}
            if path.endswith(LFS_SUFFIXES):
                sha256 = repository.etag(path)
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        commit = self.loopback.wrong_commit or revision
        body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings}).encode()
        self._send(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}, body)

    def _resolve(self, name: str, revision: str, path: str, *, with_body: bool) -> None:
        repository = self._allowed(name, revision)
        if repository is None:
            return
        if path not in repository.files:
            self._refuse(404, "EntryNotFound")
            return
        if not with_body:
            self.loopback.resolved.append(path)
        headers = {"X-Repo-Commit": revision, "ETag": f'"{repository.etag(path)}"'}
        if path.endswith(LFS_SUFFIXES):
            headers |= {
                "X-Linked-Etag": f'"{repository.etag(path)}"',
                "X-Linked-Size": str(len(repository.files[path])),
                "Location": f"http://localhost:{self.server.server_address[1]}/storage/{name}/{path}",
                "Content-Length": "0",
            }
            self._send(302, headers, b"")
        else:
            self._content(name, path, with_body=with_body, headers=headers)

    def _content(
        self, name: str, path: str, *, with_body: bool, headers: dict[str, str] | None = None
    ) -> None:
        repository = self.loopback.find(name)
        assert repository is not None
        content = repository.files[path]
        if headers is None and "Authorization" in self.headers:
            self.loopback.tokens_at_storage.append(self.headers["Authorization"])
        if path in self.loopback.flipped:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        start = 0
        if "Range" in self.headers:
            self.loopback.ranges.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        body = content[start:]
        status = 206 if start else 200
        sent_headers = {**(headers or {}), "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}
        if start:
            sent_headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        limit = self.loopback.cut_after.get(path)
        if with_body and limit is not None and limit < len(body) and self.loopback.num_cuts > 0:
            self.loopback.num_cuts -= 1
            self._send(status, sent_headers, body[:limit])
            self.loopback.sent[path] += limit
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, sent_headers, body if with_body else b"")
        self.loopback.sent[path] += len(body) * with_body

    def _refuse(self, status: int, code: str) -> None:
        messages = {"GatedRepo": "Access to this repository is restricted.", "RepoNotFound": "Not found."}
        headers = {"X-Error-Code": code, "X-Error-Message": messages.get(code, code), "Content-Length": "0"}
        self._send(status, headers, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.loopback.delay_s:
            threading.Event().wait(self.loopback.delay_s)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
