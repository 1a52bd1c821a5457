"""Heads of requests within a bound of time: a connection that never finishes one is closed.

uvicorn bounds a connection that idles after an answer, but neither the first request nor one that has begun
(its `timeout_keep_alive` ends with the first byte), so that a few slow clients could hold every connection.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_S", "BoundedHeads"]

HEAD_S = 10.0
"""How long the head of a request may take, from the connection or from its first byte."""


class BoundedHeads(H11Protocol):
    """uvicorn's own protocol, with one timer for each connection that owes the rest of a head."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if not self._is_owed:
            self._rest()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._close)

    @property
    def _is_owed(self) -> bool:
        """The head of a request; or the rest of a body that was refused unread, which nobody waits for."""
        is_unread = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        return self.conn.their_state is h11.IDLE or is_unread

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        if self._is_owed:
            self.transport.close()
