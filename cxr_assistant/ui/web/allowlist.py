"""Every address that is answered, and nothing else: what a new version of Gradio adds stays shut.

Knows methods and paths. A rule's name says which check of the guard (guard.py) a request must pass.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["RULES", "Match", "Rule", "find_rule"]


class Rule(NamedTuple):
    """One kind of address. `is_open`: whoever asks needs no session and is not asked to log in."""

    name: str
    methods: tuple[str, ...]
    pattern: re.Pattern[str]
    is_open: bool = False
    may_cache: bool = False


class Match(NamedTuple):
    rule: Rule
    parts: dict[str, str]


def _rule(name: str, methods: str, pattern: str, *, is_open: bool = False, may_cache: bool = False) -> Rule:
    return Rule(name, tuple(methods.split()), re.compile(pattern), is_open, may_cache)


_NAME = r"[\w-]{1,64}"  # session hashes, event ids and names of the typed API

RULES = (
    _rule("page", "GET HEAD", r"/"),
    _rule("asset", "GET HEAD", r"/(assets|static|svelte)/[\w.@+/-]+", is_open=True, may_cache=True),
    _rule("asset", "GET HEAD", r"(/gradio_api)?/theme\.css", is_open=True, may_cache=True),
    _rule("asset", "GET HEAD", r"/(favicon\.ico|manifest\.json|robots\.txt)", is_open=True, may_cache=True),
    _rule("example", "GET HEAD", r"/example/\d{1,4}", may_cache=True),
    _rule("health", "GET HEAD", r"/(healthz|readyz)", is_open=True),
    _rule("login", "GET POST", r"/login", is_open=True),
    _rule("logout", "POST", r"/logout", is_open=True),
    # The page and the clients of the typed API.
    _rule("about", "GET", r"/config/?|/gradio_api/(info/?|startup-events|app_id/?)"),
    _rule("heartbeat", "GET", rf"/gradio_api/heartbeat/(?P<page>{_NAME})"),
    _rule("upload", "POST", r"/gradio_api/upload"),
    _rule("join", "POST", r"/gradio_api/queue/join"),
    _rule("stream", "GET", r"/gradio_api/queue/data"),
    _rule("cancel", "POST", r"/gradio_api/cancel"),
    _rule("film", "GET", rf"/film/(?P<page>{_NAME})/[0-9a-f]{{64}}/{_NAME}"),
    _rule("file", "GET HEAD", r"/gradio_api/file=(?P<path>/.{1,1000})"),
    _rule("call", "POST", rf"/gradio_api/call/(v2/)?(?P<api>{_NAME})/?"),
    _rule("result", "GET", rf"/gradio_api/call/(v2/)?(?P<api>{_NAME})/(?P<event>{_NAME})"),
    _rule("mcp", "GET POST DELETE", r"/gradio_api/mcp/?"),
)


def find_rule(method: str, path: str) -> Match | None:
    """The rule that admits a request; None when there is none. Whole paths only, never a beginning."""
    for rule in RULES:
        found = rule.pattern.fullmatch(path)
        if found and method in rule.methods:
            return Match(rule, found.groupdict())
    return None
