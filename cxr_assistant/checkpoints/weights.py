"""Where a checkpoint's weights are, and how they get there: find, fetch, verify, convert once, lock.

Knows folders, the Hub and locks; knows no architecture and imports no torch. Nothing is downloaded
unless `fetch` is called, and nothing is loaded that has no lock.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cxr_assistant.checkpoints.file_lock import holding
from cxr_assistant.checkpoints.hub import Hub, HubFile, cached_snapshot, hash_file, read_hub, verify_file
from cxr_assistant.checkpoints.licences import require_licence
from cxr_assistant.checkpoints.lock import LOCK_NAME, Lock, check_folder, read_lock
from cxr_assistant.checkpoints.prepare import convert_in_child, is_disk_full, not_enough_disk
from cxr_assistant.checkpoints.progress import OnProgress, Progress, ProgressMeter, Stage, ignore_progress
from cxr_assistant.checkpoints.spec import Checkpoint, find_module
from cxr_assistant.checkpoints.tensors import read_index
from cxr_assistant.errors import (
    CheckpointError,
    CorruptWeights,
    MissingWeights,
    NotEnoughDisk,
)
from cxr_assistant.settings import PROJECT_ROOT, read_settings

__all__ = [
    "FetchPlan",
    "convert_local",
    "fetch",
    "folder_of",
    "is_ready",
    "locate",
    "make_random",
    "plan_fetch",
    "verify",
]

SPARE_BYTES = 256 * 1024 * 1024  # a disk filled to its last byte harms everything else on it


@dataclass(frozen=True)
class FetchPlan:
    """What a fetch would do, for the person who is asked: bytes to download, bytes to write, bytes free."""

    files: tuple[HubFile, ...]
    download_bytes: int
    convert_bytes: int
    needed_by_disk: Mapping[Path, int]

    @property
    def sentence(self) -> str:
        """`13.5 GB to download; 27.0 GB of disk for download and conversion, 120.0 GB free`."""
        disks = " and ".join(
            f"{needed / 1e9:.1f} GB of disk for download and conversion, "
            f"{free_bytes(folder) / 1e9:.1f} GB free"
            for folder, needed in self.needed_by_disk.items()
        )
        return f"{self.download_bytes / 1e9:.1f} GB to download; {disks}"

    def require_disk(self) -> None:
        """Raise NotEnoughDisk, with figures, unless everything fits before anything is started."""
        for folder, needed in self.needed_by_disk.items():
            free = free_bytes(folder)
            if needed and needed + SPARE_BYTES > free:
                raise NotEnoughDisk(
                    f"{needed / 1e9:.1f} GB are needed for download and conversion; "
                    f"{free / 1e9:.1f} GB are free.",
                    hint="Free some space, or set CXR_WEIGHTS_DIR and HF_HOME to a larger disk.",
                )


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
    files = _needed_files(checkpoint, hub)
    download = sum(hub.bytes_missing(file) for file in files)
    # The converted folder is never larger than what it is made from: tensors are dropped, never widened.
    convert = sum(file.size for file in files)
    return FetchPlan(
        files, download, convert, _by_disk((hub.cache_dir, download), (_weights_dir(weights_dir), convert))
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
        _download(plan, hub, on_progress)
        _verify(plan.files, hub, on_progress)
        convert_in_child(
            checkpoint,
            _snapshots(plan.files, hub),
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
    FetchPlan((), 0, size, _by_disk((target, size))).require_disk()
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


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


# -------------------------------------------------------------------- finding


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


# -------------------------------------------------------------------- fetching


def _repositories(checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((file.repository, file.revision) for file in checkpoint.files))


def _wanted(checkpoint: Checkpoint, files: Sequence[HubFile]) -> tuple[HubFile, ...]:
    """The files that `checkpoint` needs; a path of its list may be a pattern such as `*.safetensors`."""
    return tuple(
        file
        for file in files
        if any(
            (want.repository, want.revision) == (file.repository, file.revision)
            and fnmatch(file.path, want.path)
            for want in checkpoint.files
        )
    )


def _needed_files(checkpoint: Checkpoint, hub: Hub) -> tuple[HubFile, ...]:
    """What to fetch, per repository from the cache if it is complete, else from the Hub."""
    files: list[HubFile] = []
    for repository, revision in _repositories(checkpoint):
        found = _wanted(checkpoint, cached_snapshot(hub, repository, revision))
        if not hub.is_offline and not _is_complete(checkpoint, repository, found, hub):
            found = _wanted(checkpoint, hub.list_files(repository, revision))
        _refuse_incomplete(checkpoint, repository, found, hub)
        files.extend(found)
    return tuple(files)


def _is_complete(checkpoint: Checkpoint, repository: str, cached: Sequence[HubFile], hub: Hub) -> bool:
    """True when the cache holds every wanted file, every shard of an index included, under its hash."""
    paths = {file.path for file in cached if len(file.digest) in (40, 64)}
    shards: set[str] = set()
    for file in cached:
        if file.path.endswith(".index.json"):
            try:
                shards |= set(read_index(hub.snapshot_path(file)).values())
            except CorruptWeights:  # after a power cut, say: verifying what the Hub lists will drop it
                return False
    return shards <= paths and not _missing(checkpoint, repository, paths)


def _missing(checkpoint: Checkpoint, repository: str, paths: Collection[str]) -> list[str]:
    wanted = [file.path for file in checkpoint.files if file.repository == repository]
    return [pattern for pattern in wanted if not any(fnmatch(path, pattern) for path in paths)]


def _refuse_incomplete(checkpoint: Checkpoint, repository: str, found: Sequence[HubFile], hub: Hub) -> None:
    missing = _missing(checkpoint, repository, [file.path for file in found])
    if missing and hub.is_offline:
        raise MissingWeights(
            f"{checkpoint.title} is not on this computer, and HF_HUB_OFFLINE forbids to fetch it.",
            hint="Unset HF_HUB_OFFLINE for the first time, or name a folder that holds the files.",
            code="offline",
        )
    if missing:
        raise MissingWeights(
            f"{repository} misses {missing[0]} at the pinned revision.",
            hint="Check HF_ENDPOINT: a mirror must serve the whole repository.",
        )


def _download(plan: FetchPlan, hub: Hub, on_progress: OnProgress) -> None:
    meter = ProgressMeter(Stage.DOWNLOADING, sum(file.size for file in plan.files), on_progress)
    for file in sorted(plan.files, key=lambda file: file.size):  # small ones first: they may refuse already
        try:
            hub.fetch(file, meter.add)
        except OSError as error:
            if is_disk_full(error):
                raise not_enough_disk("the download") from error
            raise


def _verify(files: Sequence[HubFile], hub: Hub, on_progress: OnProgress) -> None:
    """Hash everything before it is read: the cache may hold what another program put there."""
    meter = ProgressMeter(Stage.VERIFYING, sum(file.size for file in files), on_progress)
    for file in files:
        path = hub.snapshot_path(file)
        if len(file.digest) not in (40, 64):
            continue  # a cache without links, offline: nobody recorded what the file should be
        try:
            verify_file(path, file.digest, file.path, meter.add)
        except CorruptWeights:
            hub.forget(file)
            raise


def _snapshots(files: Sequence[HubFile], hub: Hub) -> list[Path]:
    return list(dict.fromkeys(hub.snapshot_folder(file.repository, file.revision) for file in files))


def _by_disk(*wishes: tuple[Path, int]) -> dict[Path, int]:
    """Bytes needed per disk, under the name of the first folder on it."""
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, needed in wishes:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        first, already = by_device.get(existing.stat().st_dev, (folder, 0))
        by_device[existing.stat().st_dev] = (first, already + needed)
    return dict(by_device.values())


def _one_at_a_time(target: Path, on_progress: OnProgress) -> AbstractContextManager[None]:
    """Hold the lock of one converted folder; say so while another process holds it."""
    path = target.parent / ".locks" / f"{target.name}.lock"
    return holding(path, lambda: on_progress(Progress(stage=Stage.WAITING)))
