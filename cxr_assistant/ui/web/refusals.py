"""How a request is turned away: a status, one sentence, and when to come back."""

from __future__ import annotations

import json

from starlette.types import Receive, Scope, Send

__all__ = ["Refused", "not_found", "refuse"]


class Refused(Exception):
    """A request that gets no further; `sentence` is for the person in front of the screen."""

    def __init__(self, status: int, sentence: str, *, retry_after_s: int = 0) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after_s = retry_after_s


def not_found() -> Refused:
    return Refused(404, "There is nothing here.")


async def refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the sentence as JSON, under the key in which Gradio's page looks for it."""
    body = json.dumps({"detail": refused.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.retry_after_s:
        headers.append((b"retry-after", str(refused.retry_after_s).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
