"""The numbers of a training run: one frozen value, one dial for its length.

`EMBEDDED` made the committed model; `MICRO` proves in a minute that the recipe runs. `PLAIN` teaches a model
without a stem by a finished one, `MICRO_PLAIN` in half a minute.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.models.stem import CELL_PX

__all__ = ["EMBEDDED", "MICRO", "MICRO_PLAIN", "PLAIN", "PlainRecipe", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes and lengths; everything else is computed from them."""

    seed: int = 0
    image_px: int = 336
    patch_px: int = 24
    tower_width: int = 192
    tower_layers: int = 6
    language_width: int = 192
    language_layers: int = 4
    vocabulary: int = 1024
    phantoms: int = 11_000
    first_phantoms: int = 6_000  # in the pool when the stem starts
    phantoms_per_step: float = 4.0  # that join it while the stem learns; the tower starts with all
    validation: int = 500
    batch: int = 32
    stem_width: int = 64
    stem_crop_px: int = 192
    stem_batch: int = 64
    stem_steps: int = 3_200
    stem_rate: float = 2e-3
    tower_steps: int = 1_800
    tower_rate: float = 5e-4
    hard_phantoms: int = 3_000  # fresh ones, half of each batch of the tower's last leg
    hard_steps: int = 1_000
    hard_rate: float = 3e-4
    language_phantoms: int = 8_000  # none of which the tower was taught with
    feature_views: int = 3  # augmented versions of each picture whose features the language model sees
    align_steps: int = 150
    instruct_steps: int = 3_600
    language_rate: float = 1.5e-3
    settle_steps: int = 600  # the last of instruction, films with what is named too seldom drawn more often
    settle_rate: float = 4e-4
    questions_per_picture: int = 6
    processes: int = 2  # that train, each on its share of a batch by chances of its own
    gate_films: int = 800  # unseen phantoms at the product's own size, for the gate's threshold

    @property
    def fingerprint(self) -> str:
        """Short name of these numbers: states of other recipes are not taken up. Constants of the stages are
        not in it."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    @property
    def patches(self) -> int:
        return self.image_px // self.patch_px

    @property
    def cells(self) -> int:
        """Cells of the stem per side of a film, in which masks are kept."""
        return self.image_px // CELL_PX

    @property
    def image_spec(self) -> ImageSpec:
        return ImageSpec(
            size_px=self.image_px,
            channels=3,
            mean=(0.5, 0.1, 0.1),
            std=(0.25, 0.2, 0.2),
            resize=ResizeRule.PAD,
            resampling="bicubic",
            rendering=Rendering.STRUCTURE,
        )


@dataclass(frozen=True, kw_only=True)
class PlainRecipe(Recipe):
    """And those of a model without a stem, which learns from the one that the others make."""

    plain_layers: int = 12
    plain_batch: int = 6  # steps are what it lacks, not films (docs/LOG.md, 23 November 2026)
    patch_patterns: int = 768
    front_steps: int = 15_000
    front_rate: float = 1e-3
    whole_steps: int = 6_500
    whole_rate: float = 4e-4
    polish_steps: int = 3_000
    polish_rate: float = 2e-4


EMBEDDED = Recipe()
PLAIN = PlainRecipe()
MICRO = Recipe(
    image_px=64, patch_px=16, stem_width=16, stem_batch=16, stem_steps=6, tower_width=64, tower_layers=2,
    language_width=64, language_layers=2, vocabulary=512, phantoms=60, first_phantoms=60, validation=30,
    language_phantoms=50, gate_films=16, batch=16, tower_steps=20, hard_phantoms=12, hard_steps=4,
    align_steps=4, instruct_steps=16, settle_steps=4, processes=1,
)  # fmt: skip
MICRO_PLAIN = PlainRecipe(
    **asdict(MICRO), plain_layers=4, patch_patterns=96, front_steps=6, whole_steps=4, polish_steps=2,
)  # fmt: skip
