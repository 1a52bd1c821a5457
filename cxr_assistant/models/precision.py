"""How weights are held: the names of the precisions and what they mean to torch.

Readable without torch, so that the menu and the command line can offer them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from cxr_assistant.errors import SettingsError

if TYPE_CHECKING:
    import torch

__all__ = ["Precision", "torch_dtype"]


class Precision(StrEnum):
    """A precision that a person may ask for."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def torch_dtype(precision: str) -> torch.dtype:
    """The torch type of `precision`; raises SettingsError for a name that is not one of `Precision`."""
    import torch

    dtypes = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    if precision not in dtypes:
        raise SettingsError(f"precision is {precision!r}; allowed: {', '.join(Precision)}.")
    return dtypes[Precision(precision)]
