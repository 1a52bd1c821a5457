"""Random weights in the published layouts go through the same door as real ones."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest

from cxr_assistant.checkpoints.blindness import require_sight
from cxr_assistant.checkpoints.random_layouts import layout_of
from cxr_assistant.checkpoints.random_sizes import PUBLISHED_SIZES, TINY_SIZES
from cxr_assistant.checkpoints.random_weights import write_random_checkpoint
from cxr_assistant.checkpoints.spec import find_module, get_checkpoint
from cxr_assistant.errors import CheckpointError

NAMES = ("chexagent", "cxr-llava", "llava-rad")
# Counted on the published files: chexagent.md and cxr-llava.md; llava-rad's adapter and tower.
PUBLISHED_TENSORS = {"chexagent": 861, "cxr-llava": 589}
PUBLISHED_PARAMETERS = {"chexagent": 3_140_746_752, "cxr-llava": 7_046_371_328}


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_convert_build_and_see(name: str, tmp_path: Path) -> None:
    checkpoint, module = get_checkpoint(name), find_module(name)
    write_random_checkpoint(checkpoint, tmp_path / "random", sizes=TINY_SIZES)
    (tmp_path / "converted").mkdir()
    module.convert(sorted((tmp_path / "random").iterdir()), tmp_path / "converted", precision="fp32")
    model = module.build(tmp_path / "converted", device="cpu", precision="fp32")
    assert require_sight(checkpoint, module, model) > 0


@pytest.mark.parametrize("name", PUBLISHED_TENSORS)
def test_the_layout_has_the_published_tensors(name: str) -> None:
    specs = [
        s for layout in layout_of(get_checkpoint(name), PUBLISHED_SIZES[name]) for s in layout.safetensors
    ]
    assert len(specs) == PUBLISHED_TENSORS[name]
    assert sum(prod(spec.shape) for spec in specs) == PUBLISHED_PARAMETERS[name]


def test_llava_rads_adapter_has_the_published_size() -> None:
    adapter, base = layout_of(get_checkpoint("llava-rad"), PUBLISHED_SIZES["llava-rad"])
    lora = adapter.pickles["adapter_model.bin"]
    trunk = [s for s in adapter.pickles["biomedclipcxr_518_checkpoint.pt"] if ".trunk." in s.name]
    assert (len(lora), sum(prod(s.shape) for s in lora)) == (448, 159_907_840)
    assert (len(trunk), sum(prod(s.shape) for s in trunk)) == (174, 86_579_712)
    assert sum(s.num_bytes for shard in base.pickles.values() for s in shard) == pytest.approx(
        13.48e9, rel=1e-3
    )


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_random_checkpoint(get_checkpoint("llava-rad"), tmp_path / folder, sizes=TINY_SIZES, seed=3)
    first, second = (sorted(p for p in (tmp_path / f).rglob("*") if p.is_file()) for f in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_folder_says_that_it_is_noise(tmp_path: Path) -> None:
    write_random_checkpoint(get_checkpoint("cxr-llava"), tmp_path / "random", sizes=TINY_SIZES)
    assert "Random weights" in (tmp_path / "random" / "CXR-LLAVA-v2" / "RANDOM.txt").read_text("utf-8")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(CheckpointError, match="not empty"):
        write_random_checkpoint(get_checkpoint("cxr-llava"), tmp_path, sizes=TINY_SIZES)


def test_the_embedded_model_has_no_published_layout(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no published layout"):
        write_random_checkpoint(get_checkpoint("embedded"), tmp_path / "random")


def test_random_numbers_are_normal(tmp_path: Path) -> None:
    from cxr_assistant.checkpoints.tensors import list_tensors

    write_random_checkpoint(get_checkpoint("cxr-llava"), tmp_path / "random", sizes=TINY_SIZES)
    stored = list_tensors(tmp_path / "random" / "CXR-LLAVA-v2")["llama.layers.0.mlp.up_proj.weight"].read()
    assert np.asarray(stored.float()).std() == pytest.approx(0.02, rel=0.05)
