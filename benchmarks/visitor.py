"""A browser without a screen: it speaks to the app over HTTP as the page's own script does.

Knows Gradio's protocol (upload, join, stream) and the names that the page gives to its parts; everything that
the server ever sent to it is kept, so that a test can look for what should not be there.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

__all__ = ["Refused", "Visitor"]


class Refused(Exception):
    """The server answered a request with an error status, or an event with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:200]}")
        self.status, self.text = status, text


class Visitor:
    """One tab of one browser. `pieces` holds every text that came back, the page excepted."""

    def __init__(self, address: str, *, timeout_s: float = 180.0, cookies: Any = None) -> None:
        self.address = address.rstrip("/")
        headers = {"Origin": self.address}
        self.http = httpx.Client(base_url=self.address, timeout=timeout_s, headers=headers, cookies=cookies)
        self.page = self.http.get("/").text
        self.name = secrets.token_hex(6)
        self.pieces: list[str] = []
        self.config = self._json(self.http.get("/config"))

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What a person does --------------------------------------------------------------------------

    def add(self, content: bytes, name: str = "film") -> str:
        """Add a film; the whole answer of the server, as text. Raises Refused when the upload is refused."""
        path = self.upload(content, name)
        given = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": name}
        button = self.component("upload")
        inputs = self.function(self.function_id("upload", "upload"))["inputs"]
        data = [[given] if number == button else None for number in inputs]
        return self.say("upload", "upload", data=data)

    def ask(self, prompt: str, task: str = "question", indication: str = "") -> str:
        said = {"task": task, "prompt": prompt, "indication": indication}
        return self.say("chat", "send", event=said)

    def clear(self) -> str:
        return self.say("study", "clear", event={})

    def demonstrate(self) -> str:
        self.say("viewer", "demonstrate", event={})
        return self.follow(self._id_after("viewer", "demonstrate"))

    def make(self, **wishes: str) -> str:
        """Order a synthetic patient and have the model draft its findings."""
        self.say("synthetic", "make", event=wishes)
        return self.follow(self._id_after("synthetic", "make"))

    def press(self, part: str, event_name: str) -> None:
        """Trigger an event while another's stream is open; its end comes in that stream, and nobody waits."""
        function_id = self.function_id(part, event_name)
        self.join(function_id, [None] * len(self.function(function_id)["inputs"]), {})

    # The protocol --------------------------------------------------------------------------------

    def upload(self, content: bytes, name: str = "film") -> str:
        """The server's name of an uploaded file. `name` goes onto the wire as it is."""
        edge = secrets.token_hex(16)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content
        body += f"\r\n--{edge}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        answer = self._json(self.http.post("/gradio_api/upload", content=body, headers=kind))
        return str(answer[0])

    def say(self, part: str, event_name: str, *, data: list[Any] | None = None, event: Any = None) -> str:
        """Trigger an event of a part of the page, wait for its end, and return what was drawn."""
        return self.follow(self.function_id(part, event_name), data=data, event=event)

    def follow(self, function_id: int, *, data: list[Any] | None = None, event: Any = None) -> str:
        texts = [text for _, text in self.steps(function_id, data=data, event=event)]
        return "".join(texts)

    def steps(
        self, function_id: int, *, data: list[Any] | None = None, event: Any = None
    ) -> Iterator[tuple[float, str]]:
        """Each message of one event: when it came (time.monotonic) and its text."""
        inputs = self.function(function_id)["inputs"]
        event_id = self.join(function_id, data if data is not None else [None] * len(inputs), event)
        for message, text in self.stream():
            if message.get("event_id") not in (event_id, None):
                continue
            yield time.monotonic(), text
            if message["msg"] == "process_completed":
                if not message["success"]:
                    raise Refused(200, text)
                return
            if message["msg"] in ("close_stream", "unexpected_error", "server_stopped"):
                raise Refused(200, text)

    def join(self, function_id: int, data: list[Any], event: Any = None) -> str:
        targets = self.function(function_id)["targets"]  # none for a function of the API
        body = {
            "data": data,
            "event_data": event,
            "fn_index": function_id,
            "trigger_id": targets[0][0] if targets else None,
            "session_hash": self.name,
        }
        return str(self._json(self.http.post("/gradio_api/queue/join", json=body))["event_id"])

    def stream(self) -> Iterator[tuple[dict[str, Any], str]]:
        """The messages of this tab's event stream, parsed and as they came."""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.name}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise Refused(answer.status_code, answer.text)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    self.pieces.append(line)
                    yield json.loads(line[5:]), line

    @contextlib.contextmanager
    def deaf_stream(self, *, until: bytes) -> Iterator[None]:
        """This tab's event stream on a socket from which nothing is read any more once `until` has come."""
        url = self.http.base_url
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((url.host, url.port or 80))
            cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
            head = (
                f"GET /gradio_api/queue/data?session_hash={self.name} HTTP/1.1\r\nHost: {url.netloc.decode()}"
            )
            connection.sendall(f"{head}\r\nCookie: {cookies}\r\nOrigin: {self.address}\r\n\r\n".encode())
            heard = b""
            while until not in heard:
                if not (piece := connection.recv(4096)):
                    raise Refused(0, "the stream ended")
                heard += piece
            yield

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Keep the tab open, as a page does as long as it is shown."""
        is_over = threading.Event()

        def beat() -> None:
            url = f"{self.address}/gradio_api/heartbeat/{self.name}"
            with contextlib.suppress(httpx.HTTPError):
                with httpx.stream("GET", url, cookies=self.http.cookies, timeout=60) as answer:
                    for _ in answer.iter_raw():
                        if is_over.is_set():
                            break

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        yield
        is_over.set()

    # The page ------------------------------------------------------------------------------------

    def function_id(self, part: str, event_name: str) -> int:
        """The number under which the page calls the handler of an event of the part with that element id."""
        components = {c["id"] for c in self.config["components"] if c["props"].get("elem_id") == part}
        for function in self.config["dependencies"]:
            if any(number in components and name == event_name for number, name in function["targets"]):
                return int(function["id"])
        raise KeyError(f"{part}.{event_name}")

    def component(self, part: str) -> int:
        """The number of the part with that element id."""
        return next(int(c["id"]) for c in self.config["components"] if c["props"].get("elem_id") == part)

    def function(self, function_id: int) -> dict[str, Any]:
        return next(f for f in self.config["dependencies"] if f["id"] == function_id)

    def _id_after(self, part: str, event_name: str) -> int:
        first = self.function_id(part, event_name)
        return next(int(f["id"]) for f in self.config["dependencies"] if f.get("trigger_after") == first)

    def _json(self, answer: httpx.Response) -> Any:
        self.pieces.append(answer.text if answer.url.path != "/config" else "")
        if answer.status_code != 200:
            raise Refused(answer.status_code, answer.text)
        return answer.json()
