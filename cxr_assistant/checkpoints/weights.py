"""Where a checkpoint's weights are, and how they get there: find, fetch, verify, convert once, lock.

Knows folders and locks, and leaves the Hub's files to `fetching.py`; knows no architecture and imports no
torch. Nothing is downloaded unless `fetch` is called, and nothing is loaded that has no lock.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path

from cxr_assistant.checkpoints.fetching import (
    FetchPlan,
    by_disk,
    download,
    needed_files,
    snapshots,
    verify_downloads,
)
from cxr_assistant.checkpoints.file_lock import holding
from cxr_assistant.checkpoints.hub import Hub, hash_file, read_hub
from cxr_assistant.checkpoints.licences import require_licence
from cxr_assistant.checkpoints.lock import LOCK_NAME, Lock, check_folder, read_lock
from cxr_assistant.checkpoints.prepare import convert_in_child
from cxr_assistant.checkpoints.progress import OnProgress, Progress, ProgressMeter, Stage, ignore_progress
from cxr_assistant.checkpoints.spec import Checkpoint, find_module
from cxr_assistant.errors import CheckpointError, MissingWeights
from cxr_assistant.settings import PROJECT_ROOT, read_settings

__all__ = [
    "convert_local",
    "fetch",
    "folder_of",
    "is_ready",
    "locate",
    "make_random",
    "plan_fetch",
    "stored_precision",
    "verify",
]


def locate(
    checkpoint: Checkpoint,
    directory: Path | None = None,
    *,
    weights_dir: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """The loadable folder of `checkpoint`; never goes to the network.

    directory: a converted folder, or one that holds the published files (converted on first use). Without
    it, the embedded model's folder or the one that `fetch` made.
    Raises: LicenceNotAccepted, MissingWeights with the command that fetches, CorruptWeights, WeightsMismatch.
    """
    if checkpoint.is_embedded:
        return _embedded(checkpoint, directory, weights_dir)
    require_licence(checkpoint)
    if directory is not None:
        return _explicit(checkpoint, Path(directory), weights_dir, on_progress)
    folder = folder_of(checkpoint, weights_dir)
    if not (folder / LOCK_NAME).is_file():
        raise MissingWeights(
            f"{checkpoint.title} is not on this computer yet.",
            hint=f"Run `python -m cxr_assistant checkpoints fetch {checkpoint.name}`, or fetch it in the "
            "model menu.",
        )
    check_folder(folder, checkpoint.name)
    return folder


def is_ready(checkpoint: Checkpoint, weights_dir: Path | None = None) -> bool:
    """True when the checkpoint can be loaded without fetching or converting anything."""
    if not checkpoint.is_embedded:
        return _is_whole(folder_of(checkpoint, weights_dir), checkpoint)
    try:
        return bool(_embedded(checkpoint, None, weights_dir))
    except CheckpointError:
        return False


def folder_of(checkpoint: Checkpoint, weights_dir: Path | None = None) -> Path:
    """Where the converted checkpoint lies, or would lie."""
    return _weights_dir(weights_dir) / f"{checkpoint.name}-{checkpoint.revision[:12]}"


def plan_fetch(
    checkpoint: Checkpoint, weights_dir: Path | None = None, *, hub: Hub | None = None
) -> FetchPlan:
    """What fetching would take; the Hub is asked unless the cache holds everything.

    Raises: DownloadFailed, MissingWeights, WeightsMismatch for an unpinned revision.
    """
    hub = hub or read_hub()
    files = needed_files(checkpoint, hub)
    missing = sum(hub.bytes_missing(file) for file in files)
    # The converted folder is never larger than what it is made from: tensors are dropped, never widened.
    convert = sum(file.size for file in files)
    return FetchPlan(
        files, missing, convert, by_disk((hub.cache_dir, missing), (_weights_dir(weights_dir), convert))
    )


def fetch(
    checkpoint: Checkpoint,
    weights_dir: Path | None = None,
    *,
    on_progress: OnProgress = ignore_progress,
    hub: Hub | None = None,
    precision: str | None = None,
) -> Path:
    """Download what is missing, verify, convert, test and lock; returns the loadable folder.

    Processes that ask for the same checkpoint wait for the one that came first. What an earlier, cut
    download left is continued. `precision` overrides the one that the weights are stored in.
    Raises: LicenceNotAccepted, DownloadFailed, NotEnoughDisk, CorruptWeights, WeightsMismatch.
    """
    if checkpoint.is_embedded:
        return locate(checkpoint, weights_dir=weights_dir)
    require_licence(checkpoint)
    target = folder_of(checkpoint, weights_dir)
    with _one_at_a_time(target, on_progress):
        if is_ready(checkpoint, weights_dir):
            return target  # another process was faster
        hub = hub or read_hub()
        plan = plan_fetch(checkpoint, weights_dir, hub=hub)
        plan.require_disk()
        download(plan, hub, on_progress)
        verify_downloads(plan.files, hub, on_progress)
        convert_in_child(
            checkpoint,
            snapshots(plan.files, hub),
            target,
            digests={f"{f.repository}@{f.revision}/{f.path}": f.digest for f in plan.files},
            precision=precision or stored_precision(checkpoint),
            expected_bytes=plan.convert_bytes,
            on_progress=on_progress,
        )
    on_progress(Progress(stage=Stage.READY))
    return target


def convert_local(
    checkpoint: Checkpoint,
    directory: Path,
    target: Path,
    *,
    precision: str | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Lock:
    """Convert published files that lie in `directory` (one folder per repository, or all in one) to `target`.

    Raises: MissingWeights for a folder without weights; NotEnoughDisk, CorruptWeights, WeightsMismatch.
    """
    files = _files_below(directory)
    if not files:
        raise MissingWeights(
            f"The folder given for {checkpoint.title} holds no files of it.",
            hint=f"Name the folder that holds the files of {checkpoint.repository}.",
        )
    size = sum(path.stat().st_size for path in files)
    FetchPlan((), 0, size, by_disk((target, size))).require_disk()
    meter = ProgressMeter(Stage.VERIFYING, size, on_progress)
    digests = {path.relative_to(directory).as_posix(): hash_file(path, "0" * 64, meter.add) for path in files}
    convert_in_child(
        checkpoint,
        [directory],
        target,
        digests=digests,
        precision=precision or stored_precision(checkpoint),
        expected_bytes=size,
        on_progress=on_progress,
    )
    return check_folder(target, checkpoint.name)


def verify(
    checkpoint: Checkpoint, directory: Path | None = None, *, on_progress: OnProgress = ignore_progress
) -> tuple[Path, Lock]:
    """The converted folder of `checkpoint` and its lock, after every file was hashed and compared with it.

    Raises: MissingWeights for a folder without a lock, which the embedded model's is; CorruptWeights for a
    file that is not as it was written; WeightsMismatch.
    """
    folder = directory or folder_of(checkpoint)
    size = sum(record.size for record in read_lock(folder).files.values())
    meter = ProgressMeter(Stage.VERIFYING, size, on_progress)
    return folder, check_folder(folder, checkpoint.name, hashing=True, count_bytes=meter.add)


def make_random(checkpoint: Checkpoint, directory: Path) -> None:
    """Write full-size random weights of `checkpoint` in its published layout, tensor by tensor."""
    from cxr_assistant.checkpoints.random_weights import write_random_checkpoint

    write_random_checkpoint(checkpoint, directory)


def stored_precision(checkpoint: Checkpoint) -> str:
    """The precision in which converted weights are stored: as published, or what the file declares."""
    return str(getattr(find_module(checkpoint.name), "STORED_PRECISION", "fp16"))


def _embedded(checkpoint: Checkpoint, directory: Path | None, weights_dir: Path | None) -> Path:
    if directory is not None:
        if (directory / "model.safetensors").is_file():
            return directory
        raise MissingWeights(
            f"The folder given for {checkpoint.title} holds no model.safetensors.",
            hint="Name a folder that `train` wrote, or leave it out.",
        )
    for folder in (_weights_dir(weights_dir) / "embedded", PROJECT_ROOT / "weights" / "embedded"):
        if (folder / "model.safetensors").is_file():
            return folder
    raise MissingWeights(
        f"The folder of {checkpoint.title} is missing.",
        hint="It is part of the project: restore weights/embedded.",
    )


def _explicit(
    checkpoint: Checkpoint, directory: Path, weights_dir: Path | None, on_progress: OnProgress
) -> Path:
    if not directory.is_dir():
        raise MissingWeights(
            f"The folder given for {checkpoint.title} does not exist.",
            hint="Check the path, or leave it out.",
        )
    if (directory / LOCK_NAME).is_file():
        check_folder(directory, checkpoint.name)
        return directory
    target = _weights_dir(weights_dir) / f"{checkpoint.name}-local-{_fingerprint(directory)}"
    with _one_at_a_time(target, on_progress):
        if not _is_whole(target, checkpoint):
            convert_local(checkpoint, directory, target, on_progress=on_progress)
    return target


def _is_whole(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether a converted folder can be loaded; one that is damaged or older is made again."""
    try:
        check_folder(folder, checkpoint.name)
    except CheckpointError:
        return False
    return True


def _fingerprint(directory: Path) -> str:
    """Changes when a file of the folder does; names, sizes and times stand for contents."""
    seen = [
        (path.relative_to(directory).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in _files_below(directory)
    ]
    return hashlib.sha256(repr((str(directory.resolve()), seen)).encode()).hexdigest()[:12]


def _files_below(directory: Path) -> list[Path]:
    """The files of a folder and of its subfolders, hidden ones left out."""
    found = sorted((*directory.glob("*"), *directory.glob("*/*")))
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _weights_dir(weights_dir: Path | None) -> Path:
    return read_settings().weights_dir if weights_dir is None else weights_dir


def _one_at_a_time(target: Path, on_progress: OnProgress) -> AbstractContextManager[None]:
    """Hold the lock of one converted folder; say so while another process holds it."""
    path = target.parent / ".locks" / f"{target.name}.lock"
    return holding(path, lambda: on_progress(Progress(stage=Stage.WAITING)))
