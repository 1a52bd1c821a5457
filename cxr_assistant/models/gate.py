"""Is this picture a phantom? The distance of its tower features from those of phantoms.

Knows statistics of features, stored beside the embedded model; must not know how a film was made. What a
file says about itself is never asked: the picture decides.

N images, P patch tokens, V width of the tower, W of its stem, F features
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_assistant.errors import CorruptWeights, ForeignImage

__all__ = ["HasTower", "PhantomGate", "picture_features"]


class HasTower(Protocol):
    """A model whose tower can be asked for its features."""

    @property
    def tower(self) -> nn.Module: ...

    def tower_states(self, pixel_values: Tensor) -> list[Tensor]: ...

    def stem_features(self, pixel_values: Tensor) -> Tensor | None: ...

    def project(self, features: Tensor) -> Tensor: ...


def picture_features(model: HasTower, pixel_values: Tensor) -> Tensor:
    """(N, F): what the patches of each picture carry on average, and mean and spread of texture, which the
    last blocks hardly pass on: of a stem's cells, or of the patches a third of the way up a tower without.

    F is V + 2 W, or 3 V.
    """
    return _summed_up(model, pixel_values, model.tower_states(pixel_values))


def _summed_up(model: HasTower, pixel_values: Tensor, states: list[Tensor]) -> Tensor:
    cells = model.stem_features(pixel_values)
    texture = states[len(states) // 3].transpose(1, 2) if cells is None else cells.flatten(2)
    texture = texture.float()
    return torch.cat((states[-1].float().mean(dim=1), texture.mean(dim=2), texture.std(dim=2)), dim=1)


@dataclass(frozen=True, eq=False)
class PhantomGate:
    """Mahalanobis distance with a threshold that a known share of phantoms stays under.

    mean (F,); whitening (F, F) maps the deviation of a phantom's features to unit variance.
    """

    mean: Tensor
    whitening: Tensor
    threshold: float

    @classmethod
    def fit(
        cls, features: Tensor, held_out: Tensor, *, admit: float, slack: float, shrinkage: float = 1e-4
    ) -> PhantomGate:
        """The cloud of (N, F) features; the threshold: `slack` times the `admit` quantile of others."""
        cloud = features.double()
        spread = cloud.std(dim=0).clamp_min(1e-6)
        # Little shrinkage: films of people differ most in directions in which phantoms hardly vary.
        covariance = torch.cov(((cloud - cloud.mean(dim=0)) / spread).T)
        covariance += shrinkage * torch.eye(len(covariance), dtype=torch.double)
        whitening = torch.linalg.cholesky(torch.linalg.inv(covariance)) / spread[:, None]
        gate = cls(cloud.mean(dim=0).float(), whitening.float(), 0.0)
        threshold = slack * float(torch.quantile(gate.distance(held_out), admit))
        return cls(gate.mean, gate.whitening, threshold)

    @classmethod
    def load(cls, path: Path) -> PhantomGate:
        """Read what `save` wrote; raises CorruptWeights when it is something else."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            stored = load_file(path)
            return cls(stored["mean"].float(), stored["whitening"].float(), float(stored["threshold"]))
        except (KeyError, ValueError, OSError, SafetensorError) as error:
            raise CorruptWeights(
                "The phantom gate of the embedded model cannot be read.", hint="Restore weights/embedded."
            ) from error

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        tensors = {"mean": self.mean, "whitening": self.whitening.contiguous()}
        save_file({**tensors, "threshold": torch.tensor(self.threshold)}, path)

    def distance(self, features: Tensor) -> Tensor:
        """(N,) distances of (N, F) features."""
        distances: Tensor = torch.linalg.vector_norm((features.float() - self.mean) @ self.whitening, dim=1)
        return distances

    @torch.inference_mode()
    def check(self, model: HasTower, pixel_values: NDArray[np.float32]) -> Tensor:
        """Raise ForeignImage unless every picture of (N, C, S, S) is a phantom's.

        Returns their image embeddings (N, P, D), so that whoever goes on with them need not look again.
        """
        weights = next(model.tower.parameters())
        pixels = torch.tensor(pixel_values).to(weights.device, weights.dtype)
        states = model.tower_states(pixels)
        distance = float(self.distance(_summed_up(model, pixels, states).cpu()).max())
        if not distance <= self.threshold:
            raise ForeignImage(
                "This picture is no phantom, and this model has seen phantoms alone.",
                hint="Choose a model that reads radiographs of people.",
            )
        return model.project(states[-1])
