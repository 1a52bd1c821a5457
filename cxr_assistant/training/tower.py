"""Stage 1, the eye: a tower learns labels and masks of phantoms, as BiomedCLIP-CXR came before LLaVA-Rad.

The heads are scaffolding: they make every patch token carry what it shows, and are thrown away afterwards.

B batch, T patch tokens, D width, K kinds of finding, Q label queries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import Dinov2Config, Dinov2Model

from cxr_assistant.models.stem import Stem, add_stem
from cxr_assistant.training.data import IGNORED, KINDS, PRESENCE, SEVERITY, VIEWS

__all__ = [
    "MASK_SHARE",
    "Balance",
    "Labels",
    "TowerTeacher",
    "bake_patches",
    "place_patches",
    "tower_loss",
    "whiten_patches",
]

_GRADES = 3
MASK_SHARE = 0.045  # a patch belongs to a finding from this covered share on: a catheter fills little of it


class TowerTeacher(nn.Module):
    """A Dinov2 tower with heads for patch masks, presence, severity and view.

    Each label looks for its own evidence: a learned query attends over the patch tokens. Presence and
    severity are told by the mean of all tokens, too.
    """

    def __init__(self, config: Dinov2Config, stem: Stem) -> None:
        """`stem` is taught already and stays as it is until the last leg."""
        super().__init__()
        width = config.hidden_size
        self.tower = Dinov2Model(config)
        place_patches(self.tower, config)
        add_stem(self.tower, stem.width)
        self.stem.load_state_dict(stem.state_dict())
        self.stem.requires_grad_(False)
        self.norm = nn.LayerNorm(width)
        self.patch_head = nn.Linear(width, len(KINDS))
        self.num_presence, self.num_severity = len(PRESENCE), len(SEVERITY)
        queries = self.num_presence + self.num_severity + 1
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.1)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.readout = nn.Parameter(torch.randn(queries, width, _GRADES) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(queries, _GRADES))
        # A language model hears sooner what every token knows than what one of them does.
        self.whole = nn.Linear(width, self.num_presence + self.num_severity * _GRADES)

    @property
    def stem(self) -> Stem:
        stem: Stem = self.tower.embeddings.patch_embeddings.projection.stem
        return stem

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits for (B, C, S, S) normalised pixels."""
        hidden = self.tower(pixels, output_hidden_states=True).hidden_states[-1]
        tokens_BTD = self.norm(hidden[:, 1:])
        scores_BQT = (
            torch.einsum("qd,btd->bqt", self.queries, self.key(tokens_BTD)) * tokens_BTD.shape[-1] ** -0.5
        )
        seen_BQD = scores_BQT.softmax(-1) @ self.value(tokens_BTD)
        logits = torch.einsum("bqd,qdg->bqg", seen_BQD, self.readout) + self.bias
        first, second = self.num_presence, self.num_presence + self.num_severity
        whole = self.whole(tokens_BTD.mean(1))
        return {
            "patch": self.patch_head(tokens_BTD),
            "presence": logits[:, :first, 0],
            "severity": logits[:, first:second],
            "view": logits[:, second, : len(VIEWS)],
            "whole_presence": whole[:, :first],
            "whole_severity": whole[:, first:].unflatten(1, (self.num_severity, _GRADES)),
        }


def place_patches(tower: Dinov2Model, config: Dinov2Config) -> None:
    """Start position embeddings as 2-D sines (arXiv 2205.01580): a small tower need not find out the grid."""
    side, quarter = config.image_size // config.patch_size, config.hidden_size // 4
    frequency = 1 / 100 ** (torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    with torch.no_grad():
        grid = torch.cat([rows, columns], dim=2).reshape(side * side, -1)
        tower.embeddings.position_embeddings[0, 1:] = 0.3 * grid


@dataclass(frozen=True, eq=False)
class Labels:
    """masks (B, K, P, P) in [0, 1]; presence (B, Q), severity (B, Q'), view (B,): integers with IGNORED."""

    masks: Tensor
    presence: Tensor
    severity: Tensor
    view: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Labels]) -> Labels:
        """Those of several batches, one after the other."""
        named = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        return cls(**{name: torch.cat(values) for name, values in named.items()})


@dataclass(frozen=True, eq=False)
class Balance:
    """How much more a positive weighs than a negative: (K,) for patches, (Q,) for presence.

    A nodule fills two patches of 196 in one film of ten: unweighted, "nothing there" is rarely wrong.
    """

    patch: Tensor
    presence: Tensor

    @classmethod
    def of(cls, masks: Tensor, presence: Tensor) -> Balance:
        """From (N, K, P, P) masks and (N, Q) labels: the odds against a positive, tempered."""
        patch = (masks > MASK_SHARE).float().mean(dim=(0, 2, 3)).clamp(1e-4, 0.5)
        known = presence != IGNORED
        share = ((presence == 1).sum(0) / known.sum(0).clamp_min(1)).clamp(0.02, 0.5)
        return cls(((1 - patch) / patch) ** 0.6, ((1 - share) / share) ** 0.5)


class Whitened(nn.Module):
    """The patch embedding in coordinates in which all patch patterns vary alike.

    Raw patches vary mostly in brightness; a catheter is a ten-thousandth of their variance, and gradient
    descent finds it last. The layer computes the same as before, its weights are only expressed otherwise.
    """

    to_white: Tensor
    from_white: Tensor

    def __init__(self, patches: Tensor, floor: float = 2e-3) -> None:
        """`patches` (N, C * p * p): normalised pixels; `floor` keeps what is only noise from growing."""
        super().__init__()
        values, vectors = torch.linalg.eigh(torch.cov(patches.double().T))
        scale = (values.clamp_min(0) + floor).sqrt()
        self.register_buffer("to_white", (vectors / scale @ vectors.T).float())
        self.register_buffer("from_white", (vectors * scale @ vectors.T).float())

    def forward(self, white: Tensor) -> Tensor:
        return (white.flatten(1) @ self.to_white).view_as(white)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return (weight.flatten(1) @ self.from_white).view_as(weight)


def whiten_patches(tower: Dinov2Model, pixels: Tensor) -> None:
    """Express the tower's patch embedding in whitened coordinates of (N, C, S, S) normalised pixels."""
    projection = tower.embeddings.patch_embeddings.projection
    side = projection.kernel_size[0]
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1)
    parametrize.register_parametrization(projection, "weight", Whitened(patches))


def bake_patches(tower: Dinov2Model) -> None:
    """Back to an ordinary convolution that computes the same."""
    projection = tower.embeddings.patch_embeddings.projection
    if parametrize.is_parametrized(projection):
        parametrize.remove_parametrizations(projection, "weight", leave_parametrized=True)


def tower_loss(
    logits: dict[str, Tensor], labels: Labels, balance: Balance
) -> tuple[Tensor, dict[str, float]]:
    """The weighed sum of the losses, and each one for the log."""
    target_BTK = (labels.masks.flatten(2).transpose(1, 2) > MASK_SHARE).float()
    patch = F.binary_cross_entropy_with_logits(logits["patch"].float(), target_BTK, pos_weight=balance.patch)
    presence = _presence_loss(logits["presence"], labels, balance)
    severity = _severity_loss(logits["severity"], labels)
    whole = _presence_loss(logits["whole_presence"], labels, balance)
    whole_severity = _severity_loss(logits["whole_severity"], labels)
    view = F.cross_entropy(logits["view"].float(), labels.view.long())
    total = 8 * patch + 4 * presence + 0.7 * severity + 2 * whole + 0.35 * whole_severity + 0.5 * view
    parts = {"patch": patch, "presence": presence, "severity": severity, "view": view}
    parts |= {"whole": whole, "whole_severity": whole_severity}
    return total, {name: float(value.detach()) for name, value in parts.items()}


def _presence_loss(logits: Tensor, labels: Labels, balance: Balance) -> Tensor:
    known = labels.presence != IGNORED
    weight = balance.presence.expand_as(labels.presence)[known]
    return F.binary_cross_entropy_with_logits(
        logits.float()[known], labels.presence[known].float(), pos_weight=weight
    )


def _severity_loss(logits: Tensor, labels: Labels) -> Tensor:
    graded = labels.severity != IGNORED
    if not graded.any():
        return logits.sum() * 0
    return F.cross_entropy(logits.float()[graded], labels.severity[graded].long())
