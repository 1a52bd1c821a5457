"""Whose is what: every page, event and file belongs to whoever made it, and to nobody else.

Knows opaque names and times; holds no study, no text and no picture. A name that is not yours is as good as
one that does not exist.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

__all__ = ["Browsers", "Caller", "Full", "Ledger", "NotYours", "Page"]

BROWSER_LIFE_S = 12 * 3600.0
MAX_BROWSERS = 10_000
COOKIE_BYTES = 32


class NotYours(Exception):
    """The name is unknown, or belongs to somebody else; nobody is told which."""


class Full(Exception):
    """No more pages can be opened; the text is a sentence for a person."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request. `owner` is what things are owned by; `user` is who logged in."""

    owner: str
    address: str
    user: str = ""
    is_browser: bool = False


@dataclass
class _Browser:
    seen_at: float
    user: str = ""


class Browsers:
    """The cookies that were given out: 256 random bits each, kept as digests, forgotten after a while."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Browser] = {}
        self._lock = threading.Lock()

    def issue(self, user: str = "") -> str:
        """The value of a new cookie."""
        value = secrets.token_urlsafe(COOKIE_BYTES)
        with self._lock:
            while len(self._known) >= MAX_BROWSERS:
                del self._known[min(self._known, key=lambda key: self._known[key].seen_at)]
            self._known[_digest(value)] = _Browser(self._clock(), user)
        return value

    def find(self, value: str) -> tuple[str, str] | None:
        """(owner, user) of a cookie that was given out and is still good."""
        key = _digest(value)
        with self._lock:
            browser = self._known.get(key)
            if browser is None or self._clock() - browser.seen_at > BROWSER_LIFE_S:
                self._known.pop(key, None)
                return None
            browser.seen_at = self._clock()
            return key, browser.user

    def revoke(self, value: str) -> None:
        with self._lock:
            self._known.pop(_digest(value), None)

    def __len__(self) -> int:
        return len(self._known)


@dataclass
class Page:
    """One open tab, or one client of the API: what Gradio calls a session."""

    name: str
    caller: Caller
    acted_at: float
    left_at: float
    connections: int = 0
    listeners: int = 0  # open streams of answers
    num_streams: int = 0  # that ever were; the newest is the one that the page listens to
    num_begun: int = 0  # events that were begun on it
    events: set[str] = field(default_factory=set)


class Ledger:
    """The pages of all visitors, and who owns which event and file."""

    def __init__(
        self, *, max_pages: int, max_pages_per_address: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._max_pages = max_pages
        self._max_pages_per_address = max_pages_per_address
        self._pages: dict[str, Page] = {}
        self._events: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._lock = threading.Lock()

    def open_page(self, name: str, caller: Caller) -> Page:
        """The caller's page of that name, made when there is none. Raises NotYours, Full."""
        with self._lock:
            page = self._pages.get(name)
            if page is None:
                self._check_room(caller)
                page = self._pages[name] = Page(name, caller, self._clock(), self._clock())
            elif page.caller.owner != caller.owner:
                raise NotYours
            return page

    def page(self, name: str, caller: Caller) -> Page:
        """The caller's page of that name; raises NotYours."""
        with self._lock:
            page = self._pages.get(name)
        if page is None or page.caller.owner != caller.owner:
            raise NotYours
        return page

    def find_page(self, name: str) -> Page | None:
        """A page by name, for what acts on behalf of its owner already."""
        return self._pages.get(name)

    def act(self, page: Page) -> None:
        """Note that a person did something on the page."""
        page.acted_at = self._clock()

    def begin(self, page: Page) -> None:
        """Note that an event is begun on the page."""
        self.act(page)
        page.num_begun += 1

    def connect(self, page: Page, *, listens: bool) -> None:
        with self._lock:
            page.connections += 1
            page.listeners += listens
            page.num_streams += listens

    def disconnect(self, page: Page, *, listens: bool) -> None:
        with self._lock:
            page.connections -= 1
            page.listeners -= listens
            page.left_at = self._clock()

    def add_event(self, event: str, page: Page) -> None:
        with self._lock:
            self._events[event] = page.name
            page.events.add(event)

    def page_of_event(self, event: str, caller: Caller) -> Page:
        """The caller's page on which an event was begun; raises NotYours."""
        return self.page(self._events.get(event, ""), caller)

    def add_file(self, path: str, caller: Caller) -> None:
        with self._lock:
            self._files[path] = caller.owner

    def check_file(self, path: str, caller: Caller) -> None:
        """Raises NotYours when the caller does not own the file."""
        if self._files.get(path) != caller.owner:
            raise NotYours

    def forget_files(self, is_gone: Callable[[str], bool]) -> None:
        """Drop the names of files that are no longer there; most were read, and removed, at once."""
        with self._lock:
            self._files = {path: owner for path, owner in self._files.items() if not is_gone(path)}

    @property
    def num_files(self) -> int:
        return len(self._files)

    def close_page(self, name: str) -> None:
        with self._lock:
            page = self._pages.pop(name, None)
            for event in page.events if page else ():
                self._events.pop(event, None)

    def pages(self) -> tuple[Page, ...]:
        with self._lock:
            return tuple(self._pages.values())

    def ended(self, *, grace_s: float, idle_s: float) -> tuple[str, ...]:
        """Pages that nobody is connected to any more, or on which nobody has done anything for long."""
        now = self._clock()
        return tuple(
            page.name
            for page in self.pages()
            if (page.connections == 0 and now - max(page.left_at, page.acted_at) > grace_s)
            or now - page.acted_at > idle_s
        )

    def _check_room(self, caller: Caller) -> None:
        if len(self._pages) >= self._max_pages:
            raise Full("Every place is taken at the moment; try again in a minute.")
        of_address = sum(page.caller.address == caller.address for page in self._pages.values())
        if of_address >= self._max_pages_per_address:
            raise Full("Too many pages are open from this address; close one and try again.")


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
