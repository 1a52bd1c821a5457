"""How often: token buckets per address, and the count of answers that are open.

Knows numbers and opaque names; knows no study. What is refused is refused with a sentence and at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from cxr_assistant.errors import Busy
from cxr_assistant.settings import Limits
from cxr_assistant.ui.web.ownership import Caller
from cxr_assistant.ui.web.refusals import Refused

__all__ = ["Admission", "Buckets", "Rates"]

MAX_BUCKETS = 20_000
MAX_ANSWERS_PER_VISITOR = 2
"""One that is written and one that waits; a comparison of two models is one answer."""


@dataclass
class _Bucket:
    level: float
    filled_at: float


class Buckets:
    """A bucket of tokens for each name, filled at a steady rate; as many as fill in a minute are kept."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self._size = float(per_minute)
        self._clock = clock
        self._known: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, name: str) -> float:
        """Take a token: 0 when there was one, otherwise the seconds until there is."""
        now = self._clock()
        with self._lock:
            bucket = self._known.get(name)
            if bucket is None:
                self._make_room(now)
                bucket = self._known[name] = _Bucket(self._size, now)
            bucket.level = min(self._size, bucket.level + (now - bucket.filled_at) * self._size / 60)
            bucket.filled_at = now
            if bucket.level < 1:
                return (1 - bucket.level) * 60 / self._size
            bucket.level -= 1
            return 0.0

    def _make_room(self, now: float) -> None:
        """A bucket that nobody touched for a minute is full again, and need not be kept."""
        if len(self._known) < MAX_BUCKETS:
            return
        self._known = {name: b for name, b in self._known.items() if now - b.filled_at < 60}
        if len(self._known) >= MAX_BUCKETS:
            self._known.clear()


class Rates:
    """How often an address may ask for anything at all."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._requests = Buckets(limits.requests_per_minute, clock)

    def check_request(self, address: str) -> None:
        """Raises Refused (429) with the time to wait."""
        wait_s = self._requests.take(address)
        if wait_s:
            sentence = "Too many requests from this address. Wait a moment and try again."
            raise Refused(429, sentence, retry_after_s=int(wait_s) + 1)


class Admission:
    """Lets answers in, one by one: so many at once, so many for one visitor and for one address."""

    def __init__(
        self,
        limits: Limits,
        max_answers: int,
        who: Callable[[str], Caller | None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`who` tells whose page a visitor's name is; None for a page that nobody opened over the web."""
        self._limits = limits
        self._max_answers = max_answers
        self._who = who
        self._by_owner = Buckets(limits.answers_per_minute, clock)
        self._by_address = Buckets(limits.answers_per_minute_per_address, clock)
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def answer(self, visitor: str) -> Iterator[None]:
        """Holds a place for as long as an answer lasts. Raises Busy with what to do."""
        names = self._names(visitor)
        self._enter(names)
        try:
            yield
        finally:
            with self._lock:
                self._open.subtract(names.values())
                self._open += Counter()  # drops what has come to nothing

    @property
    def num_open(self) -> int:
        return self._open["all"]

    def _names(self, visitor: str) -> dict[str, str]:
        caller = self._who(visitor)
        if caller is None:  # nobody came over the web, and the whole is all that is counted
            return {"all": "all"}
        # A hospital's users come from one address; they are told apart by their names.
        where = f"user {caller.user}" if caller.user and caller.is_browser else f"address {caller.address}"
        owner = f"owner {caller.owner}" if caller.is_browser else f"visitor {visitor}"
        return {"all": "all", "visitor": f"visitor {visitor}", "owner": owner, "where": where}

    def _enter(self, names: dict[str, str]) -> None:
        with self._lock:
            self._check_places(names)
            wait_s = self._by_owner.take(names["owner"]) if "owner" in names else 0.0
            wait_s = wait_s or (self._by_address.take(names["where"]) if "where" in names else 0.0)
            if wait_s:
                raise Busy(
                    "Too many questions were asked within a minute.",
                    hint=f"Ask again in {int(wait_s) + 1} seconds.",
                )
            self._open.update(names.values())

    def _check_places(self, names: dict[str, str]) -> None:
        if self._open["all"] >= self._max_answers:
            raise Busy(
                f"{self._max_answers} answers are waited for already, which is as many as fit.",
                hint="Ask again in a minute; your study is still here.",
            )
        if self._open[names.get("visitor", "")] >= MAX_ANSWERS_PER_VISITOR:
            raise Busy("Your last question is still being answered.", hint="Wait for it, or press Stop.")
        if self._open[names.get("where", "")] >= self._limits.max_answers_per_address:
            raise Busy(
                "Too many answers are waited for from your address.", hint="Wait for one of them to end."
            )
