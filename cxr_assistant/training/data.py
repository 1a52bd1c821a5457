"""Phantoms as training examples: pictures as the model sees them, masks, labels and words.

Rendering is the slow part, so it is done once into shards that training reads while more are written.
A shard is three files: `NAME.npy` with the pictures, `NAME.npz` with masks and labels, `NAME.json` with one
record per picture, written last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging.phantom import FindingKind, Phantom, Side, make_phantom, mentions
from cxr_assistant.imaging.phantom.anatomy import TRAINING_RANGES, AnatomyRanges
from cxr_assistant.imaging.transforms import ImageSpec, prepare
from cxr_assistant.study import ViewPosition

__all__ = [
    "IGNORED",
    "KINDS",
    "PRESENCE",
    "SEVERITY",
    "VIEWS",
    "Shard",
    "encode_phantom",
    "read_shard",
    "write_shard",
]

KINDS = tuple(FindingKind)
VIEWS = (ViewPosition.PA, ViewPosition.AP, ViewPosition.LATERAL)
_PRODUCT_PX = 512  # what the app and the command line render by default
IGNORED = -1  # a label that the picture cannot answer: no loss
# Each kind at all, then each kind with a side on the left and on the right.
PRESENCE = tuple((kind, None) for kind in KINDS) + tuple((k, s) for k in KINDS if k.has_side for s in Side)
# One grade per kind, and per side where there is one.
SEVERITY = tuple((k, s) for k in KINDS if k.severities for s in (tuple(Side) if k.has_side else (None,)))


@dataclass(frozen=True, eq=False)
class Shard:
    """N pictures: `images` (N, C, S, S) uint8 as the tower sees them before normalisation, mapped from disk
    so that the processes of a team share them; `masks` (N, K, G, G) uint8, the covered share of each cell
    in 1/255; labels (N, ...) int8 with IGNORED; `records` words."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    presence: NDArray[np.int8]
    severity: NDArray[np.int8]
    view: NDArray[np.int8]
    records: list[dict[str, Any]]


def render(
    seed: int, spec: ImageSpec, ranges: AnatomyRanges = TRAINING_RANGES
) -> tuple[Phantom, NDArray[np.uint8]]:
    """A phantom at a resolution drawn from its seed (a model must not rely on one), as the model sees it:
    (C, S, S)."""
    size = _PRODUCT_PX if seed % 3 == 0 else spec.size_px
    phantom = make_phantom(seed, ranges=ranges, size_px=size)
    mean_C, std_C = (np.array(values)[:, None, None] for values in (spec.mean, spec.std))
    pixels = (prepare(phantom.radiograph, spec) * std_C + mean_C) * 255
    return phantom, np.clip(pixels.round(), 0, 255).astype(np.uint8)


def encode_phantom(phantom: Phantom, spec: ImageSpec, cells: int) -> dict[str, Any]:
    """Masks, labels and words of one phantom."""
    stated = mentions(phantom)
    lateral = phantom.view.is_lateral
    presence = []
    for kind, side in PRESENCE:
        hidden = lateral and (side is not None or kind.is_frontal_only)
        there = any(m.kind is kind and (side is None or m.side is side) for m in stated)
        presence.append(IGNORED if hidden else int(there))
    severity = []
    for kind, side in SEVERITY:
        found = [m for m in stated if m.kind is kind and m.side == side and m.severity]
        severity.append(kind.severities.index(found[0].severity) if found and found[0].severity else IGNORED)
    return {
        "masks": _cell_masks(phantom, spec.size_px, cells),
        "presence": presence,
        "severity": severity,
        "view": VIEWS.index(phantom.view),
        "record": {
            "seed": phantom.seed,
            "report": phantom.report,
            "questions": [(q.topic, q.kind, q.question, q.answer) for q in phantom.questions],
            "kinds": sorted({m.kind.value for m in stated}),
        },
    }


def _cell_masks(phantom: Phantom, size_px: int, cells: int) -> NDArray[np.uint8]:
    """(K, G, G) covered share of each cell by each visible kind, on the padded square of the model."""
    masks = np.zeros((len(KINDS), cells, cells), np.uint8)
    for finding, mask in zip(phantom.findings, phantom.masks, strict=True):
        if not finding.is_visible:
            continue
        side = max(mask.shape)
        square = np.zeros((side, side), np.float32)
        left, top = (side - mask.shape[1]) // 2, (side - mask.shape[0]) // 2
        square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        edge = side // cells * cells
        share = square[:edge, :edge].reshape(cells, edge // cells, cells, edge // cells).mean(axis=(1, 3))
        index = KINDS.index(finding.kind)
        masks[index] = np.maximum(masks[index], (share * 255).astype(np.uint8))
    return masks


def write_shard(path: Path, seeds: Sequence[int], spec: ImageSpec, cells: int) -> None:
    """Render `seeds` into `path`.npz and `path`.json; the json comes last and marks the shard as whole."""
    images, encoded = [], []
    for seed in seeds:
        phantom, pixels = render(seed, spec)
        images.append(pixels)
        encoded.append(encode_phantom(phantom, spec, cells))
    np.save(path.with_suffix(".npy"), np.stack(images))
    np.savez_compressed(
        path.with_suffix(".npz"),
        masks=np.stack([e["masks"] for e in encoded]),
        presence=np.array([e["presence"] for e in encoded], np.int8),
        severity=np.array([e["severity"] for e in encoded], np.int8),
        view=np.array([e["view"] for e in encoded], np.int8),
    )
    path.with_suffix(".json").write_text(json.dumps([e["record"] for e in encoded]))


def read_shard(path: Path) -> Shard:
    """The finished shard at `path` (without suffix)."""
    images = np.load(path.with_suffix(".npy"), mmap_mode="r")
    with np.load(path.with_suffix(".npz")) as arrays:
        records = json.loads(path.with_suffix(".json").read_text())
        return Shard(images=images, **{name: arrays[name] for name in arrays.files}, records=records)
