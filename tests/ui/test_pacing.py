from __future__ import annotations

from collections.abc import Iterator

import pytest

from cxr_assistant.generation import Completed, FinishReason, GenerationEvent, Prefilled, TextDelta, Usage
from cxr_assistant.ui.pacing import paced

DONE = Completed(FinishReason.STOP, Usage())


def bundles(events: list[GenerationEvent], step_s: float) -> list[tuple[GenerationEvent, ...]]:
    """The bundles of `events` on a clock that moves `step_s` with each event."""
    now = 0.0

    def ticking() -> Iterator[GenerationEvent]:
        nonlocal now
        for event in events:
            now += step_s
            yield event

    return list(paced(ticking(), interval_s=0.04, clock=lambda: now))


def words(count: int) -> list[GenerationEvent]:
    return [TextDelta(f"{n} ") for n in range(count)]


def test_the_first_word_is_sent_at_once() -> None:
    assert bundles(words(5), step_s=0.001)[0] == (TextDelta("0 "),)


def test_fast_words_are_sent_at_most_25_times_a_second() -> None:
    sent = bundles([*words(1000), DONE], step_s=0.002)  # two seconds of 500 tokens each
    assert 45 <= len(sent) <= 52


def test_slow_words_are_not_held_back() -> None:
    assert len(bundles(words(10), step_s=0.05)) == 10


@pytest.mark.parametrize("step_s", [0.0005, 0.013, 0.1])
def test_no_event_is_lost_or_moved(step_s: float) -> None:
    events: list[GenerationEvent] = [Prefilled(3), *words(77), DONE]
    assert [event for bundle in bundles(events, step_s) for event in bundle] == events


def test_words_that_wait_are_sent_before_a_failure() -> None:
    def failing() -> Iterator[GenerationEvent]:
        yield from words(3)
        raise ValueError

    seen: list[GenerationEvent] = []
    with pytest.raises(ValueError):
        for bundle in paced(failing(), clock=lambda: 1.0):
            seen.extend(bundle)
    assert seen == words(3)
