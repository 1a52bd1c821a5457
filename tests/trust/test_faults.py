"""Whatever dies, fills up or jumps: the person reads one sentence, the app answers again, nothing stays."""

from __future__ import annotations

import html
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from benchmarks.scripted_app import LAST_WORDS
from benchmarks.served import GENEROUS, Served
from benchmarks.visitor import Refused, Visitor
from cxr_assistant.checkpoints import embedded
from cxr_assistant.engine.engine import Engine
from cxr_assistant.errors import OutOfMemory
from cxr_assistant.generation import FinishReason, SamplingParams, collect
from cxr_assistant.imaging.sandbox import default_sandbox
from tests.engine.conftest import make_prompt
from tests.figures import Figure
from tests.imaging import builders

FILM = builders.dicom()
UNREADABLE = "The file could not be read."
ENGINE_GONE = "The engine stopped while it was working."


# ------------------------------------------------------------------------------------------ the decoder


@pytest.mark.requirement("U7")
def test_killing_decoders_at_random_points_costs_one_sentence(visitor: Visitor, figure: Figure) -> None:
    rng, is_over, num_kills = random.Random(4), threading.Event(), 0

    def kill() -> None:
        nonlocal num_kills
        while not is_over.wait(rng.uniform(0.0, 0.08)):
            for process in _decoders():
                try:
                    process.kill()
                    num_kills += 1
                except psutil.Error:
                    pass

    killer = threading.Thread(target=kill)
    killer.start()
    seen = []
    try:
        for _ in range(12):
            drawn = html.unescape(visitor.add(FILM))
            seen.append("film" if "/thumbnail" in drawn else "sentence" if UNREADABLE in drawn else drawn)
            visitor.clear()
    finally:
        is_over.set()
        killer.join()
    assert set(seen) <= {"film", "sentence"}
    assert "/thumbnail" in visitor.add(FILM)
    assert num_kills > 0
    figure("decoders killed", num_kills, "")


def _decoders() -> list[psutil.Process]:
    """The warm process and the children that it has forked."""
    warm = default_sandbox()._warm
    if warm is None:
        return []
    try:
        process = psutil.Process(warm.pid)
        return random.sample([process, *process.children()], 1)
    except psutil.Error:
        return []


# --------------------------------------------------------------------------------- the engine, the app


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = {**GENEROUS, "CXR_SCRIPT_WORDS": "40", "CXR_SCRIPT_DELAY_MS": "10"}
    served = Served.start(tmp_path_factory.mktemp("app"), environment)
    yield served
    served.kill()


@pytest.mark.requirement("D8", "D6")
@pytest.mark.timeout(600)
def test_killing_the_engine_at_random_points_costs_one_sentence(served: Served, figure: Figure) -> None:
    rng, slowest = random.Random(8), 0.0
    with Visitor(served.address) as visitor:
        visitor.add(FILM)
        assert LAST_WORDS in visitor.ask("Are you there?")
        for _ in range(4):
            killer = threading.Timer(rng.uniform(0.0, 0.5), _kill_all, [served.engines])
            killer.start()
            told = visitor.ask("What do you see?")
            killer.join()
            assert LAST_WORDS in told or ENGINE_GONE in told
            start = time.monotonic()
            again = visitor.ask("And now?")
            if LAST_WORDS not in again:  # it died between the two
                assert ENGINE_GONE in again
                again = visitor.ask("And now?")
            assert LAST_WORDS in again
            slowest = max(slowest, time.monotonic() - start)
    assert "Traceback" not in served.said
    figure("slowest answer after a kill", slowest, "s")


def _kill_all(find: Callable[[], list[int]]) -> None:
    for pid in find():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.requirement("P6", "D8")
@pytest.mark.timeout(900)
def test_killing_the_app_at_random_points_leaves_nothing_behind(tmp_path: Path, figure: Figure) -> None:
    rng = random.Random(15)
    served = Served.start(tmp_path, GENEROUS)
    slowest = 0.0
    try:
        for _ in range(2):
            orphans = list(served.children())
            threads = [threading.Thread(target=_visit, args=(served.address,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.1, 1.5))
            orphans += [pid for pid in served.children() if pid not in orphans]
            served.kill()
            for thread in threads:
                thread.join()
            start = time.monotonic()
            served = Served.start(tmp_path, GENEROUS, port=served.port)
            with Visitor(served.address) as visitor:
                visitor.add(FILM)
                assert LAST_WORDS in visitor.ask("Are you back?")
            slowest = max(slowest, time.monotonic() - start)
            assert _gone(orphans)
            # Gradio makes an empty file beside each upload that it hands on; it is swept with the rest.
            assert [p for p in served.files() if p.is_file() and p.stat().st_size] == []
        assert served.stop() in (0, -signal.SIGTERM)
    finally:
        served.kill()
    assert served.files() == []
    figure("slowest first answer after kill -9 of the app", slowest, "s")


def _visit(address: str) -> None:
    try:
        with Visitor(address) as visitor:
            while True:
                visitor.add(FILM)
                visitor.ask("What do you see?")
                visitor.clear()
    except (httpx.HTTPError, Refused, OSError, ValueError):
        pass


def _gone(pids: list[int], patience_s: float = 40.0) -> bool:
    """Whether processes end by themselves once nobody is there to talk to."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if not any(psutil.pid_exists(p) and _is_alive(p) for p in pids):
            return True
        time.sleep(0.2)
    return False


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# ---------------------------------------------------------------------------------- memory, disk, clock


@pytest.mark.requirement("D5")
def test_no_memory_at_each_of_a_hundred_calls_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    folder = tmp_path / "embedded"
    embedded.make_random(folder)
    model = embedded.build(folder, device="cpu", precision="fp32")
    prompt, params, engine = make_prompt(model, "Normal?"), SamplingParams(max_new_tokens=10), Engine()
    whole = collect(engine.generate(model, prompt, params)).text
    calls = _Calls()
    for verb in ("encode", "prefill", "decode"):
        monkeypatch.setattr(model, verb, calls.counted(getattr(model, verb)))
    num_recovered = 0
    for k in range(100):
        calls.left = k % 10
        try:
            collect(
                Engine().generate(model, prompt, params) if k % 2 else engine.generate(model, prompt, params)
            )
        except OutOfMemory as error:
            assert error.message == "The device has no memory left for this answer."
        calls.left = -1
        answer = collect(engine.generate(model, prompt, params))
        assert answer.text == whole and answer.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        num_recovered += 1
    assert calls.num_failed >= 50
    figure("recovered", num_recovered, "")
    figure("injected", calls.num_failed, "")


class _Calls:
    """Lets `left` calls pass and fails the next, once; -1 lets all pass."""

    left = -1
    num_failed = 0

    def counted(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.left == 0:
                self.left, self.num_failed = -1, self.num_failed + 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            self.left -= self.left > 0
            return verb(*args, **options)

        return call


@pytest.mark.requirement("D7")
def test_a_full_disk_is_a_sentence_and_nothing_stays(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, num_refused = os.write, 0

    def full(descriptor: int, data: Any) -> int:
        nonlocal num_refused
        if len(data) > 8 and os.readlink(f"/proc/self/fd/{descriptor}").startswith(_upload_dir()):
            num_refused += 1
            raise OSError(28, "No space left on device", "/secret/path")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Refused) as caught:
        visitor.upload(FILM)
    assert num_refused > 0
    assert caught.value.status == 507 and "no room" in caught.value.text
    assert "secret" not in caught.value.text
    assert [p for p in Path(_upload_dir()).rglob("*") if p.is_file() and p.stat().st_size] == []
    monkeypatch.undo()
    assert "/thumbnail" in visitor.add(FILM)


def _upload_dir() -> str:
    return os.environ["GRADIO_TEMP_DIR"]


@pytest.mark.requirement("D3", "P6")
@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0], ids=["forward", "back"])
def test_a_jump_of_the_clock_ends_no_session(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    visitor.add(FILM)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    with visitor.heartbeat():
        # The embedded model looked at the film, so the study is still there.
        assert "this film is none" in visitor.ask("Are you still there?")
        drawn = visitor.add(builders.dicom(builders.thorax(80, 80)))
    assert "/thumbnail" in drawn
