"""The stem adds what it sees to the patches, looks far enough, and loses its norms without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.models.llava import make_config, make_empty
from cxr_assistant.models.stem import CELL_PX, Stem, StemmedPatches, add_stem
from cxr_assistant.training.recipe import MICRO
from cxr_assistant.training.stage_language import make_student
from cxr_assistant.training.stage_stem import StemTeacher, fold_norms
from cxr_assistant.training.stage_tower import tower_config
from cxr_assistant.training.tower import TowerTeacher

CHANNELS, WIDTH, SIDE = 3, 16, 192


def pictures(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, CHANNELS, side, side, generator=torch.Generator().manual_seed(0))


def test_a_stem_has_one_feature_vector_per_cell() -> None:
    seen = Stem(CHANNELS, WIDTH)(pictures())
    assert seen.shape == (2, WIDTH, SIDE // CELL_PX, SIDE // CELL_PX)
    assert seen.min() >= 0


def test_a_cell_sees_as_far_as_the_file_says() -> None:
    stem, films = Stem(CHANNELS, WIDTH), pictures(1, 2 * SIDE).abs().requires_grad_()
    for parameter in stem.parameters():
        nn.init.uniform_(parameter, 0.01, 0.02)  # nothing is cut off or cancelled on the way
    middle = SIDE // CELL_PX
    stem(films)[0, :, middle, middle].sum().backward()
    assert films.grad is not None
    rows = films.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten() - middle * CELL_PX
    assert rows.tolist() == list(range(-88, 89))


def test_folded_norms_change_nothing() -> None:
    torch.manual_seed(1)
    teacher = StemTeacher(MICRO).train()
    for _ in range(3):
        teacher(pictures())  # moves the running means
    for norm in teacher.stem.norms or ():
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    expected = teacher.stem.eval()(pictures())
    folded = fold_norms(teacher.stem)
    assert "norms" not in " ".join(folded.state_dict())
    torch.testing.assert_close(folded(pictures()), expected, atol=1e-4, rtol=1e-4)


def test_patches_are_those_of_the_film_and_of_what_the_stem_sees() -> None:
    plain = nn.Conv2d(CHANNELS, 8, 24, 24)
    patches = StemmedPatches(plain, WIDTH)
    patches.load_state_dict(plain.state_dict(), strict=False)
    films = pictures()
    expected = plain(films) + patches.seen(patches.stem(films))
    torch.testing.assert_close(patches(films), expected)
    assert (expected - plain(films)).abs().max() > 1e-3


def test_added_products_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    patches, films = StemmedPatches(nn.Conv2d(CHANNELS, 8, 24, 24), WIDTH), pictures(1)
    with FlopCounterMode(display=False) as counted:
        patches(films)
    plain = 2 * patches.weight.numel() * (SIDE // 24) ** 2
    assert counted.get_total_flops() == plain + 2 * patches.num_added_products(SIDE)


@pytest.mark.parametrize(
    ("patch", "width", "words"),
    [
        (14, WIDTH, "patch_size is 14; a stem needs a multiple of 8"),
        (16, 6, "stem_width is 6; allowed"),
        (16, 4096, "stem_width is 4096; allowed"),
        (16, "wide", "stem_width is 'wide'; allowed"),
        (16, True, "stem_width is True; allowed"),
    ],
)
def test_sizes_that_fit_no_stem_are_refused(patch: int, width: Any, words: str) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "patch_size": patch}
    with pytest.raises(WeightsMismatch, match=words):
        add_stem(Dinov2Model(Dinov2Config(**sizes)), width)


def test_the_taught_stem_arrives_in_the_finished_model_and_does_not_learn_on() -> None:
    torch.manual_seed(2)
    stem = Stem(MICRO.image_spec.channels, MICRO.stem_width)
    teacher = TowerTeacher(tower_config(MICRO), stem)
    kept = teacher.tower.embeddings.patch_embeddings.projection.stem
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    student = make_student(MICRO, 100, teacher.tower)
    films = pictures(side=MICRO.image_px)
    projection = student.model.vision_tower.embeddings.patch_embeddings.projection
    torch.testing.assert_close(projection.stem(films), stem(films))


def test_a_tower_without_a_width_has_no_stem() -> None:
    config = make_student(
        MICRO, 100, TowerTeacher(tower_config(MICRO), Stem(3, MICRO.stem_width)).tower
    ).config
    stored = config.to_dict()
    del stored["vision_config"]["stem_width"]
    plain = make_empty(make_config(stored))
    assert type(plain.model.vision_tower.embeddings.patch_embeddings.projection) is nn.Conv2d
