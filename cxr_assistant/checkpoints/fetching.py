"""What a fetch takes, and taking it: files of the Hub, the disks they go to, the bytes, their hashes.

Knows the Hub, its cache and disks; knows nothing of converted folders.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cxr_assistant.checkpoints.hub import Hub, HubFile, cached_snapshot, verify_file
from cxr_assistant.checkpoints.prepare import is_disk_full, not_enough_disk
from cxr_assistant.checkpoints.progress import OnProgress, ProgressMeter, Stage
from cxr_assistant.checkpoints.spec import Checkpoint
from cxr_assistant.checkpoints.tensors import read_index
from cxr_assistant.errors import CorruptWeights, MissingWeights, NotEnoughDisk

__all__ = ["FetchPlan", "by_disk", "download", "free_bytes", "needed_files", "snapshots", "verify_downloads"]

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


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


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


def needed_files(checkpoint: Checkpoint, hub: Hub) -> tuple[HubFile, ...]:
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


def download(plan: FetchPlan, hub: Hub, on_progress: OnProgress) -> None:
    meter = ProgressMeter(Stage.DOWNLOADING, sum(file.size for file in plan.files), on_progress)
    for file in sorted(plan.files, key=lambda file: file.size):  # small ones first: they may refuse already
        try:
            hub.fetch(file, meter.add)
        except OSError as error:
            if is_disk_full(error):
                raise not_enough_disk("the download") from error
            raise


def verify_downloads(files: Sequence[HubFile], hub: Hub, on_progress: OnProgress) -> None:
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


def snapshots(files: Sequence[HubFile], hub: Hub) -> list[Path]:
    return list(dict.fromkeys(hub.snapshot_folder(file.repository, file.revision) for file in files))


def by_disk(*wishes: tuple[Path, int]) -> dict[Path, int]:
    """Bytes needed per disk, under the name of the first folder on it."""
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, needed in wishes:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        first, already = by_device.get(existing.stat().st_dev, (folder, 0))
        by_device[existing.stat().st_dev] = (first, already + needed)
    return dict(by_device.values())
