"""What hangs on the viewbox, and in what order: a value of its own, beside the visit that it belongs to.

Knows digests of films and the session they come from; knows no pixels and no markup. It is kept apart from
the session because an answer that streams writes the session back, and would undo what was hung meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cxr_assistant.study import Radiograph
from cxr_assistant.ui.session import Session

__all__ = ["Hanging"]


@dataclass(frozen=True)
class Hanging:
    """`order` is that of the thumbnails; `panes` hang from left to right: none, one or two digests.

    `active` is the pane that the keys, the next thumbnail and the words "this film" mean.
    """

    order: tuple[str, ...] = ()
    panes: tuple[str, ...] = ()
    active: int = 0
    prior: str = ""  # the prior of the study that was hung last, to notice a new one

    @property
    def shown(self) -> str:
        """The film of the active pane; "" when nothing hangs."""
        return self.panes[self.active] if self.panes else ""

    def follow(self, session: Session) -> Hanging:
        """What hangs once the study has changed.

        A film that is new is shown; one that is gone makes room; a prior that was just marked, or the other
        view of a frontal and lateral pair that has just become complete, is hung beside.
        """
        there = tuple(film.digest for film in session.films)
        order = (*(d for d in self.order if d in there), *(d for d in there if d not in self.order))
        prior = session.study.prior.radiographs[0].digest if session.study.prior else ""
        if not there:
            return Hanging()
        if prior and prior != self.prior:
            current = self.shown if self.shown in there and self.shown != prior else there[0]
            return Hanging(order, (current, prior), 0, prior)
        came = [digest for digest in there if digest not in self.order]
        kept = tuple(digest for digest in self.panes if digest in there)
        if not came and kept:
            active = kept.index(self.shown) if self.shown in kept else 0
            return Hanging(order, kept, active, prior)
        pair = _views(session) if came else ()
        if pair and set(pair) & set(came):
            return Hanging(order, pair, 0, prior)
        shown = session.shown if session.shown in there else there[-1]
        return replace(self, order=order, prior=prior, panes=kept or (shown,), active=0).hang(shown)

    def hang(self, digest: str, pane: int | None = None) -> Hanging:
        """`digest` on a pane, by default the active one; where it hangs already it is only made active.

        Pane 1 opens when it is asked for. A digest of no film, or another pane, changes nothing.
        """
        pane = self.active if pane is None else pane
        if digest not in self.order or not self.panes or pane not in (0, 1):
            return self
        if digest in self.panes and (len(self.panes) == 1 or self.panes[pane] == digest):
            return replace(self, active=self.panes.index(digest))
        if digest in self.panes:  # dropped on the other pane: the two change places
            return replace(self, panes=self.panes[::-1], active=pane)
        panes = (*self.panes[:pane], digest, *self.panes[pane + 1 :])
        return replace(self, panes=panes, active=min(pane, len(panes) - 1))

    def pick(self, digest: str) -> Hanging:
        """A thumbnail was chosen: its film comes onto the active pane, or its pane becomes the active one."""
        return self.activate(self.panes.index(digest)) if digest in self.panes else self.hang(digest)

    def activate(self, pane: int) -> Hanging:
        return replace(self, active=pane) if 0 <= pane < len(self.panes) else self

    def pair(self, session: Session) -> Hanging:
        """Two films side by side, or back to one: beside the shown film hangs its prior, else its other
        view, else the next film."""
        if len(self.panes) == 2:
            return replace(self, panes=(self.shown,), active=0)
        others = [digest for digest in self.order if digest != self.shown]
        if not others or not self.panes:
            return self
        likely = [d for d in (self.prior, *_views(session)) if d and d != self.shown]
        partner = likely[0] if likely else others[0]
        # As films are hung: the current one on the left, the prior on the right.
        panes = (partner, self.shown) if self.shown == self.prior else (self.shown, partner)
        return replace(self, panes=panes, active=panes.index(self.shown))

    def move(self, digest: str, place: int) -> Hanging:
        """The thumbnail of `digest` at another place of the row, counted from 0."""
        if digest not in self.order:
            return self
        rest = [other for other in self.order if other != digest]
        rest.insert(max(0, min(place, len(rest))), digest)
        return replace(self, order=tuple(rest))

    def films(self, session: Session) -> tuple[Radiograph, ...]:
        """The films of the visit in the order of their thumbnails."""
        known = {film.digest: film for film in session.films}
        return tuple(known[digest] for digest in self.order if digest in known)


def _views(session: Session) -> tuple[str, ...]:
    """The current study's frontal and lateral film, when it holds one of each; else nothing."""
    frontal = [r.digest for r in session.study.radiographs if r.view.is_frontal]
    lateral = [r.digest for r in session.study.radiographs if r.view.is_lateral]
    return (frontal[0], lateral[0]) if len(frontal) == len(lateral) == 1 else ()
