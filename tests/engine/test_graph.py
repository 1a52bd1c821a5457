"""Steps that cannot be recorded run plainly, and say the same; a real recording needs a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cxr_assistant.engine import graph
from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.graph import LIGHT, Decoded, EagerDecoder, GraphDecoder, make_decoder
from cxr_assistant.engine.sampling import Token
from cxr_assistant.generation import SamplingParams
from cxr_assistant.models.places import BUSY_PAIRS
from tests.engine.families import build, make_prompt


class OnAGpu:
    """What `make_decoder` asks of a model, as if it lay on a GPU."""

    device = torch.device("cuda")

    def prepare_static(self, max_tokens: int) -> bool:
        return max_tokens > 0


CACHE: Any = SimpleNamespace(
    max_tokens=2048, num_slots=4, lengths=[0] * 4, shape=SimpleNamespace(num_heads=BUSY_PAIRS // 2)
)
RECORDED = [(4, 2048), (4, 1024), (4, 512), (2, 2048), (2, 1024), (2, 512), (1, 2048)]


@pytest.fixture
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))


def record_with(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[tuple[int, int]]:
    """Put a recorder in the place of CUDA's; the sizes and reaches that it was asked for."""
    asked: list[tuple[int, int]] = []

    def record(_model: Any, _kv_cache: Any, size: int, reach: int, _pool: Any) -> Any:
        asked.append((size, reach))
        if error is not None:
            raise error
        return Replayed(size, reach)

    monkeypatch.setattr(graph, "_record", record)
    return asked


class Replayed(SimpleNamespace):
    """A recording that is no more than its name: what it says is which one it is."""

    def __init__(self, size: int, reach: int) -> None:
        memory = torch.zeros(2, size, dtype=torch.int64)
        named = Decoded(torch.full((size, 1), float(reach)), torch.zeros(2, size))
        super().__init__(staging=memory, inputs=memory.clone(), decoded=named, graph=self)

    def replay(self) -> None:
        pass


def test_every_size_is_recorded_the_largest_first(monkeypatch: pytest.MonkeyPatch, no_pool: None) -> None:
    """Many rows for a half and a quarter of a slot as well; few must read all of it."""
    asked = record_with(monkeypatch, None)
    assert isinstance(make_decoder(OnAGpu(), CACHE), GraphDecoder)  # type: ignore[arg-type]
    assert asked == RECORDED


@pytest.mark.parametrize(
    ("slots", "lengths", "reach"),
    [
        ([0, 1], [511, 3, 0, 0], 512),
        ([0, 1], [512, 3, 0, 0], 1024),
        ([0, 2], [9, 2000, 600, 0], 1024),  # the second slot is somebody else's, who is still reading
        ([0, 1, 2], [1024, 3, 5, 0], 2048),
        ([0], [3, 0, 0, 0], 2048),
    ],
)
def test_a_step_reads_as_far_as_its_longest_row(
    monkeypatch: pytest.MonkeyPatch, no_pool: None, slots: list[int], lengths: list[int], reach: int
) -> None:
    record_with(monkeypatch, None)
    monkeypatch.setattr(CACHE, "lengths", list(lengths))
    decoder = make_decoder(OnAGpu(), CACHE)  # type: ignore[arg-type]
    with torch.inference_mode():
        decoded = decoder.step([7] * len(slots), slots)
    assert decoded.logits.flatten().tolist() == [float(reach)] * len(slots)
    assert CACHE.lengths == [n + (slot in slots) for slot, n in enumerate(lengths)]


def test_a_step_that_cannot_be_captured_runs_plainly(
    monkeypatch: pytest.MonkeyPatch, no_pool: None, caplog: pytest.LogCaptureFixture
) -> None:
    record_with(monkeypatch, RuntimeError("operation not permitted when stream is capturing"))
    with caplog.at_level(logging.WARNING):
        assert isinstance(make_decoder(OnAGpu(), CACHE), EagerDecoder)  # type: ignore[arg-type]
    assert "not recorded" in caplog.text


def test_memory_that_runs_out_while_recording_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, no_pool: None
) -> None:
    record_with(monkeypatch, torch.OutOfMemoryError("none left"))
    with pytest.raises(torch.OutOfMemoryError):
        make_decoder(OnAGpu(), CACHE)  # type: ignore[arg-type]


def test_int8_is_not_recorded_and_answers_all_the_same(tmp_path: Path) -> None:
    """bitsandbytes' own layers on the CPU: the step is the one that a GPU would run."""
    pytest.importorskip("bitsandbytes")
    model = build("embedded", tmp_path / "embedded", precision="int8")
    assert model.is_written_out
    assert not model.prepare_static(256)
    steps = Engine().steps(model, make_prompt(model, (11, 12, 13)), SamplingParams(max_new_tokens=6))
    assert sum(isinstance(step, Token) for step in steps) > 0


def test_half_precision_is_recorded(tmp_path: Path) -> None:
    assert build("embedded", tmp_path / "embedded", precision="bf16").prepare_static(256)


@pytest.mark.parametrize(("num_rows", "num_threads"), [(1, 1), (3, 2)], ids=["light", "heavy"])
def test_a_light_step_is_taken_by_one_thread(num_rows: int, num_threads: int) -> None:
    """As many threads as before when it is done, also when it fails."""
    seen: list[int] = []

    class Watched:
        device, num_decoder_weights = torch.device("cpu"), LIGHT // 2

        def decode(self, *_: Any) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            raise MemoryError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(MemoryError):
            EagerDecoder(Watched(), CACHE).step([5] * num_rows, list(range(num_rows)))  # type: ignore[arg-type]
        assert (seen, torch.get_num_threads()) == ([num_threads], 2)
    finally:
        torch.set_num_threads(before)
