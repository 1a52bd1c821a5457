"""The lock of a converted folder: what it was made from, by which converter, and what it must hold.

Knows hashes and revisions; knows nothing about tensors. A folder without a lock is never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cxr_assistant.checkpoints.hub import CountBytes, hash_file
from cxr_assistant.errors import CorruptWeights, MissingWeights, WeightsMismatch

__all__ = [
    "CONVERTER_VERSION",
    "LOCK_NAME",
    "FileRecord",
    "Lock",
    "check_folder",
    "read_lock",
    "record_files",
]

LOCK_NAME = "cxr.lock.json"
CONVERTER_VERSION = 1
"""Counts up when a conversion would write other bytes; older folders are converted again."""

SMALL_BYTES = 2**20
"""Files up to here are hashed whenever a folder is looked at: configurations, the tokenizer's small ones."""

_SHA256_LIKE = "0" * 64


@dataclass(frozen=True)
class FileRecord:
    """What one file must hold."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What is written beside the converted tensors.

    sources: "repository@revision/path" (or a bare path, for a folder that was given) -> digest.
    image_effect: the largest change of the next-token logits when another picture is shown.
    """

    checkpoint: str
    repository: str
    revision: str
    precision: str
    converter_version: int
    image_effect: float
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        (folder / LOCK_NAME).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", "utf-8")


def read_lock(folder: Path) -> Lock:
    """The lock of `folder`; raises MissingWeights when there is none, CorruptWeights when it is damaged."""
    try:
        raw: dict[str, Any] = json.loads((folder / LOCK_NAME).read_text("utf-8"))
        files = {name: FileRecord(**record) for name, record in raw.pop("files").items()}
        return Lock(**raw, files=files)
    except FileNotFoundError as error:
        raise MissingWeights(
            "The folder holds no converted checkpoint: it has no lock.",
            hint="Name the folder of the published files, or let `checkpoints fetch` make one.",
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptWeights(
            "The lock of a converted checkpoint is damaged.", hint="Delete the folder and fetch again."
        ) from error


def record_files(folder: Path, count_bytes: CountBytes = lambda _: None) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file below `folder`."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK_NAME)
    return {
        path.relative_to(folder).as_posix(): FileRecord(
            path.stat().st_size, hash_file(path, _SHA256_LIKE, count_bytes)
        )
        for path in paths
    }


def check_folder(
    folder: Path,
    checkpoint_name: str,
    *,
    hashing: bool = False,
    count_bytes: CountBytes = lambda _: None,
) -> Lock:
    """The lock of a folder that is whole and belongs to `checkpoint_name`.

    Sizes are compared always, hashes of small files too; those of the tensors with `hashing`, which takes the
    time of reading them, and of which `count_bytes` hears.
    Raises: MissingWeights, CorruptWeights, WeightsMismatch (another model, an older converter, or a
    configuration that asks for code).
    """
    lock = read_lock(folder)
    if lock.checkpoint != checkpoint_name:
        raise WeightsMismatch(
            f"The folder holds {lock.checkpoint!r}; asked for: {checkpoint_name!r}.",
            hint="Name another folder.",
        )
    if lock.converter_version != CONVERTER_VERSION:
        raise WeightsMismatch(
            f"The folder was made by converter {lock.converter_version}; "
            f"this is converter {CONVERTER_VERSION}.",
            hint="Fetch again: what was downloaded is used where it is still there.",
            code="old_converter",
        )
    for name, record in lock.files.items():
        is_hashed = hashing or record.size <= SMALL_BYTES
        _check_file(folder / name, name, record, count_bytes if is_hashed else None)
    refuse_code(folder)
    return lock


def refuse_code(folder: Path) -> None:
    """Raise WeightsMismatch when a JSON file of `folder` names Python classes to import (`auto_map`), and
    CorruptWeights when it is none."""
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CorruptWeights(f"{path.name} is no JSON.", hint="Fetch the checkpoint again.") from error
        if isinstance(content, dict) and content.get("auto_map"):
            raise WeightsMismatch(
                f"{path.name} asks to run code of its repository (auto_map); this assistant never does.",
                hint="Use a converted folder, or a checkpoint of the list.",
                code="remote_code",
            )


def _check_file(path: Path, name: str, record: FileRecord, count_bytes: CountBytes | None) -> None:
    """Compare the size of a file, and its hash unless nobody counts what is read for it."""
    if not path.is_file():
        raise MissingWeights(f"{name} is missing from a converted checkpoint.", hint="Fetch it again.")
    is_equal = path.stat().st_size == record.size
    if is_equal and count_bytes is not None:
        is_equal = hash_file(path, _SHA256_LIKE, count_bytes) == record.sha256
    if not is_equal:
        raise CorruptWeights(
            f"{name} of a converted checkpoint is not as it was written.",
            hint="Delete the folder and fetch again; check the disk if it happens twice.",
        )
