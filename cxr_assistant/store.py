"""The storeroom of the front desk: which weights are on this machine, and how others get here.

Knows weights, licences and cancel flags; must not know torch, sessions or how progress is drawn. Nothing is
downloaded unless `fetch` is called, and `fetch` refuses terms that nobody accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cxr_assistant.errors import CheckpointError, DownloadFailed
from cxr_assistant.generation import IsCancelled

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.fetching import FetchPlan
    from cxr_assistant.checkpoints.progress import OnProgress, Progress
    from cxr_assistant.checkpoints.spec import Checkpoint

__all__ = ["Store", "WeightStore"]


class Store(Protocol):
    """What the assistant asks about weights."""

    @property
    def may_fetch(self) -> bool:
        """Whether whoever sits in front of the page may add models to this machine."""

    def is_ready(self, checkpoint: Checkpoint) -> bool:
        """True when it can be loaded without fetching or converting anything."""

    def is_licence_accepted(self, checkpoint: Checkpoint) -> bool: ...

    def accept_licence(self, checkpoint: Checkpoint) -> None: ...

    def plan(self, checkpoint: Checkpoint) -> FetchPlan:
        """What `fetch` would take; asks the Hub for sizes, and downloads nothing."""

    def fetch(self, checkpoint: Checkpoint, on_progress: OnProgress, is_cancelled: IsCancelled) -> None:
        """Download, verify and convert; returns when the checkpoint is ready."""


class WeightStore:
    """The folders and licences of this machine; `weights_dir` None stands for the settings' own.

    `given` is the name of the checkpoint whose folder somebody named: it needs no fetching.
    """

    def __init__(
        self, weights_dir: Path | None = None, *, may_fetch: bool = True, given: str | None = None
    ) -> None:
        self._weights_dir = weights_dir
        self._given = given
        self.may_fetch = may_fetch

    def is_ready(self, checkpoint: Checkpoint) -> bool:
        from cxr_assistant.checkpoints.weights import is_ready

        return checkpoint.name == self._given or is_ready(checkpoint, self._weights_dir)

    def is_licence_accepted(self, checkpoint: Checkpoint) -> bool:
        from cxr_assistant.checkpoints.licences import is_licence_accepted

        return is_licence_accepted(checkpoint)

    def accept_licence(self, checkpoint: Checkpoint) -> None:
        """Remember that the terms were accepted; raises CheckpointError where fetching is switched off."""
        from cxr_assistant.checkpoints.licences import accept_licence

        self._require_permission(checkpoint)
        accept_licence(checkpoint)

    def plan(self, checkpoint: Checkpoint) -> FetchPlan:
        """Raises DownloadFailed, MissingWeights; CheckpointError where fetching is switched off."""
        from cxr_assistant.checkpoints.weights import plan_fetch

        self._require_permission(checkpoint)
        return plan_fetch(checkpoint, self._weights_dir)

    def fetch(self, checkpoint: Checkpoint, on_progress: OnProgress, is_cancelled: IsCancelled) -> None:
        """Raises what `checkpoints.weights.fetch` raises; DownloadFailed ("stopped") when cancelled."""
        from cxr_assistant.checkpoints.weights import fetch

        self._require_permission(checkpoint)
        if self.is_ready(checkpoint):
            return

        def tell(progress: Progress) -> None:
            # The meter is the one place that every stage passes often: an error from here ends each of them.
            if is_cancelled():
                raise DownloadFailed(
                    f"Fetching {checkpoint.title} was stopped.",
                    hint="What has arrived is kept: fetch again to go on from there.",
                    code="stopped",
                )
            on_progress(progress)

        fetch(checkpoint, self._weights_dir, on_progress=tell)

    def _require_permission(self, checkpoint: Checkpoint) -> None:
        if not self.may_fetch:
            raise CheckpointError(
                f"{checkpoint.title} cannot be fetched from this page: its owner adds the models.",
                hint=f"The owner runs `python -m cxr_assistant checkpoints fetch {checkpoint.name}` on the "
                "server, or sets CXR_ALLOW_FETCH=yes.",
                code="fetch_off",
            )
