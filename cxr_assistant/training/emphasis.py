"""How much more often the training meets what is rare and small: whole films, and places in them.

A fresh nodule teaches more than an old one again. And greedy decoding states what is likelier than not: met
too seldom, what is rare would not be stated as often as its best F1 asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging.phantom import FindingKind, drawn_findings

__all__ = [
    "Emphasis",
    "chances_to_be_told",
    "emphasis_on",
    "hardest_seeds",
    "seeds_to_learn_from",
    "strongest_emphasis",
]


@dataclass(frozen=True)
class Emphasis:
    """What a kind of finding counts for."""

    rendered: float  # share of the seeds with it whose films are rendered
    cropped: float  # share of its films that are taken for a crop when chance offers them
    centred: float  # how many times as often as others a crop is drawn around it
    told: float = 1.0  # how many times as often as others its films are read in the last steps of instruction


_OTHERS = Emphasis(rendered=0.35, cropped=0.25, centred=1.0)
_ON = {
    FindingKind.NODULE: Emphasis(rendered=1.0, cropped=1.0, centred=6.0, told=2.0),
    FindingKind.MASS: Emphasis(rendered=0.7, cropped=0.5, centred=3.0),
    FindingKind.CONSOLIDATION: Emphasis(rendered=0.6, cropped=0.5, centred=3.0),
    FindingKind.CENTRAL_LINE: Emphasis(rendered=0.35, cropped=0.25, centred=1.0, told=1.5),
}
_HARD_NODULES = 0.33  # share of the seeds with a nodule that are among the hardest


def emphasis_on(kind: FindingKind) -> Emphasis:
    return _ON.get(kind, _OTHERS)


def strongest_emphasis(kinds: Iterable[FindingKind]) -> Emphasis:
    """That of a film with findings of `kinds`, which may be none."""
    return max(map(emphasis_on, kinds), key=lambda emphasis: emphasis.rendered, default=_OTHERS)


def chances_to_be_told(films: Sequence[Collection[FindingKind]]) -> NDArray[np.float64]:
    """How likely each film, given by the kinds that it shows, is drawn when words are about to settle."""
    told = np.array([max((emphasis_on(kind).told for kind in kinds), default=1.0) for kinds in films])
    chances: NDArray[np.float64] = told / told.sum()
    return chances


def seeds_to_learn_from(first: int, count: int) -> list[int]:
    """`count` seeds from `first` on: all with a nodule, fewer of others.

    Whether its film will show it is not known before it is rendered.
    """
    return list(islice((seed for seed in count_from(first) if _is_rendered(seed)), count))


def _is_rendered(seed: int) -> bool:
    share = strongest_emphasis(request.kind for request in drawn_findings(seed)).rendered
    return bool(np.random.default_rng((seed, 7)).random() < share)


def hardest_seeds(first: int, count: int) -> list[int]:
    """`count` seeds from `first` on of patients with what is missed most often.

    A line beside a pacemaker's leads on the same side: all; a nodule: one in three, about as many.
    """
    return list(islice((seed for seed in count_from(first) if _is_among_the_hardest(seed)), count))


def _is_among_the_hardest(seed: int) -> bool:
    drawn = drawn_findings(seed)
    sides = {kind: {r.side for r in drawn if r.kind is kind} for kind in FindingKind}
    if sides[FindingKind.CENTRAL_LINE] & sides[FindingKind.PACEMAKER]:
        return True
    has_nodule = bool(sides[FindingKind.NODULE])
    return has_nodule and bool(np.random.default_rng((seed, 9)).random() < _HARD_NODULES)
