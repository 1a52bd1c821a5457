"""One honest progress display: bytes, speed and time left, for terminal and app."""

from __future__ import annotations

from cxr_assistant.checkpoints.progress import Progress, ProgressMeter, Stage


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_speed_is_that_of_the_last_seconds() -> None:
    readings: list[Progress] = []
    clock = Clock()
    meter = ProgressMeter(Stage.DOWNLOADING, 10_000, readings.append, clock=clock)
    for speed in (100, 100, 100, 100, 100, 100, 1000, 1000, 1000, 1000, 1000, 1000):
        clock.now_s += 1
        meter.add(speed)
    assert readings[-1].bytes_per_s == 1000
    assert readings[-1].seconds_left == 3.4


def test_a_bar_is_not_told_more_often_than_it_can_draw() -> None:
    readings: list[Progress] = []
    clock = Clock()
    meter = ProgressMeter(Stage.DOWNLOADING, 1000, readings.append, clock=clock)
    for _ in range(1000):
        clock.now_s += 0.001
        meter.add(1)
    assert len(readings) < 15
    assert readings[-1].fraction == 1.0


def test_the_sentence_says_bytes_speed_and_time_left() -> None:
    reading = Progress(
        stage=Stage.DOWNLOADING, done_bytes=3_200_000_000, total_bytes=13_500_000_000, bytes_per_s=45_000_000
    )
    assert reading.sentence == "Downloading 3.20 of 13.50 GB, 45 MB/s, 4 min left"


def test_nothing_is_promised_while_nothing_moves() -> None:
    stalled = Progress(stage=Stage.DOWNLOADING, done_bytes=1, total_bytes=10)
    assert stalled.seconds_left is None
    assert "left" not in stalled.sentence
