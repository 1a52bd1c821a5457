"""The phantom gate: it admits what it was fitted on, refuses what lies far away, and names a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cxr_assistant.errors import CorruptWeights
from cxr_assistant.models.gate import PhantomGate


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0)


def test_the_threshold_admits_the_share_that_was_asked_for(features: torch.Tensor) -> None:
    gate = PhantomGate.fit(features[::2], features[1::2], admit=0.95, slack=1.0)
    admitted = (gate.distance(features[1::2]) <= gate.threshold).float().mean()
    assert admitted == pytest.approx(0.95, abs=0.01)


def test_what_lies_far_from_phantoms_is_beyond_the_threshold(features: torch.Tensor) -> None:
    gate = PhantomGate.fit(features[::2], features[1::2], admit=0.99, slack=1.1)
    assert bool((gate.distance(features + 30.0) > gate.threshold).all())


def test_a_stored_gate_measures_as_before(features: torch.Tensor, tmp_path: Path) -> None:
    gate = PhantomGate.fit(features[::2], features[1::2], admit=0.99, slack=1.1)
    gate.save(tmp_path / "gate.safetensors")
    stored = PhantomGate.load(tmp_path / "gate.safetensors")
    assert stored.threshold == pytest.approx(gate.threshold)
    torch.testing.assert_close(stored.distance(features), gate.distance(features))


@pytest.mark.parametrize("content", [b"", b"\x08" + b"\0" * 7 + b"not json"], ids=["empty", "no-header"])
def test_a_damaged_gate_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gate.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptWeights, match="gate of the embedded model"):
        PhantomGate.load(path)
