"""The phantom gate: it admits what it was fitted on, refuses what lies far away, and names a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cxr_assistant.checkpoints import embedded
from cxr_assistant.errors import CorruptWeights, ForeignImage, StudyError
from cxr_assistant.imaging.phantom import VALIDATION_SEEDS, make_phantom
from cxr_assistant.imaging.read import read_radiograph
from cxr_assistant.imaging.transforms import prepare
from cxr_assistant.models.decoder import DecoderModel
from cxr_assistant.models.gate import PhantomGate, picture_features
from cxr_assistant.settings import PROJECT_ROOT
from cxr_assistant.study import Radiograph


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


class Eye:
    """Tower and stem of a model that sees nothing but their own numbers."""

    tower = torch.nn.Linear(1, 1)

    def tower_states(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        last = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]).expand(len(pixel_values), 2, 2)
        return [-last, last - 1, 0 * last, last]

    def stem_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values  # one channel, as many cells as pixels

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return 10 * features


def test_the_gate_compares_means_of_patches_and_the_texture_of_cells() -> None:
    films = torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
    spread = films[0].std().item()
    found = picture_features(Eye(), films)
    torch.testing.assert_close(found, torch.tensor([[2.0, 4.0, 2.0, spread], [2.0, 4.0, 2.0, 0.0]]))
    gate = PhantomGate(torch.tensor([2.0, 4.0, 2.0, 0.0]), torch.eye(4), threshold=1.0)
    embeds = gate.check(Eye(), films[1:].numpy())
    torch.testing.assert_close(embeds, torch.tensor([[[10.0, 20.0], [30.0, 60.0]]]))
    with pytest.raises(ForeignImage):
        gate.check(Eye(), films.numpy())


class PlainEye(Eye):
    def stem_features(self, pixel_values: torch.Tensor) -> None:  # type: ignore[override]
        return None


def test_without_a_stem_the_texture_is_that_of_the_patches_a_third_of_the_way_up() -> None:
    found = picture_features(PlainEye(), torch.zeros(1, 1, 2, 2))
    spreads = [torch.tensor([0.0, 2.0]).std().item(), torch.tensor([1.0, 5.0]).std().item()]
    torch.testing.assert_close(found, torch.tensor([[2.0, 4.0, 1.0, 3.0, *spreads]]))


COMMITTED = PROJECT_ROOT / "weights" / "embedded"


class Committed:
    """The gate that is served, behind its own tower."""

    def __init__(self) -> None:
        model = embedded.build(COMMITTED, device="cpu", precision="fp32")
        assert isinstance(model, DecoderModel)
        self.model, self.gate = model, PhantomGate.load(COMMITTED / "gate.safetensors")

    def admits(self, radiograph: Radiograph) -> bool:
        try:
            self.gate.check(self.model, prepare(radiograph, self.model.processor.image)[None])
        except ForeignImage:
            return False
        return True


@pytest.fixture(scope="module")
def committed() -> Committed:
    return Committed()


def test_phantoms_that_nobody_was_taught_with_are_admitted(committed: Committed) -> None:
    seeds = VALIDATION_SEEDS.seeds()[9_000:9_024]
    assert [seed for seed in seeds if not committed.admits(make_phantom(seed).radiograph)] == []


def test_a_phantom_upside_down_is_not_admitted(committed: Committed) -> None:
    radiograph = make_phantom(VALIDATION_SEEDS.seeds()[9_000]).radiograph
    assert not committed.admits(Radiograph(stored=radiograph.stored[::-1].copy(), bits_stored=16))


@pytest.mark.shared
def test_no_real_film_is_admitted(committed: Committed, shared_dir: Path) -> None:
    """Every file of the manifest that can be read at all, films of people and others."""
    num_read, admitted = 0, []
    for path in sorted((shared_dir / "images").glob("*/*")):
        try:
            radiograph = read_radiograph(path.read_bytes())
        except StudyError:
            continue
        num_read += 1
        if committed.admits(radiograph):
            admitted.append(path.name)
    assert num_read >= 15
    assert admitted == []
