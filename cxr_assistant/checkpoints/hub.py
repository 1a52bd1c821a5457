"""The Hugging Face Hub: what a repository holds at a pinned revision, and its bytes, verified.

Knows the Hub's protocol and cache layout; knows no checkpoint, and never runs or unpickles what it fetches.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_assistant.checkpoints.file_lock import holding
from cxr_assistant.errors import (
    CheckpointError,
    CorruptWeights,
    DownloadFailed,
    MissingWeights,
    WeightsMismatch,
)

__all__ = ["Hub", "HubFile", "cached_snapshot", "hash_file", "read_hub", "require_pinned", "verify_file"]

PINNED = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
HASH_BLOCK_BYTES = 8 * 1024 * 1024

CountBytes = Callable[[int], None]


@dataclass(frozen=True)
class HubFile:
    """One file of a repository; `digest` is SHA-256 for LFS files, the git blob SHA-1 for small ones."""

    repository: str
    revision: str
    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Hub:
    """Where the Hub is, who asks, and where its files are kept."""

    endpoint: str
    cache_dir: Path
    token: str | None
    is_offline: bool

    def list_files(self, repository: str, revision: str) -> tuple[HubFile, ...]:
        """Every file of `repository` at the pinned `revision`, with size and digest.

        Raises: WeightsMismatch for an unpinned revision; DownloadFailed with what to click.
        """
        require_pinned(repository, revision)
        self._refuse_when_offline(repository)
        from huggingface_hub import HfApi

        with self._explained(repository, revision):
            try:
                info = HfApi(endpoint=self.endpoint, token=self.token or False).model_info(
                    repository, revision=revision, files_metadata=True
                )
            except (ValueError, KeyError) as error:  # the login page of a network, say
                raise DownloadFailed(
                    f"What was answered for {repository} is no listing of the Hub.",
                    hint="Check HF_ENDPOINT, and whether the network asks you to sign in first.",
                    code="listing",
                ) from error
        if info.sha != revision:
            raise DownloadFailed(
                f"{repository} answered with revision {info.sha} where {revision} was asked for.",
                hint="Check HF_ENDPOINT; a mirror must serve pinned revisions.",
                code="revision",
            )
        return tuple(_hub_file(repository, revision, sibling) for sibling in info.siblings or ())

    def fetch(self, file: HubFile, count_bytes: CountBytes) -> Path:
        """The verified file in the local cache; what an earlier, cut download left is continued.

        Nothing unverified is ever given its final name. `count_bytes` hears of each block that arrives,
        of the part that was already there, and of no bytes at all while it waits or hashes.
        Raises: DownloadFailed, CorruptWeights; OSError when the disk is full.
        """
        if self.snapshot_path(file).is_file() and self._is_here(file):
            count_bytes(file.size)
            return self.snapshot_path(file)  # nothing is written: the cache may be one that only can be read
        with self._file_lock(file, count_bytes):
            if self._is_here(file):
                count_bytes(file.size)
            else:
                self._refuse_when_offline(file.repository)
                self._download(file, self._blob(file), count_bytes)
            return self._point_to(file, self._blob(file))

    def bytes_missing(self, file: HubFile) -> int:
        """How many bytes of `file` have yet to come over the network."""
        if self._is_here(file):
            return 0
        part = _part_of(self._blob(file))
        return max(0, file.size - part.stat().st_size) if part.is_file() else file.size

    def forget(self, file: HubFile) -> None:
        """Drop a file from the cache, so that the next fetch starts afresh."""
        self.snapshot_path(file).unlink(missing_ok=True)
        self._blob(file).unlink(missing_ok=True)

    def snapshot_folder(self, repository: str, revision: str) -> Path:
        return self._storage(repository) / "snapshots" / revision

    def snapshot_path(self, file: HubFile) -> Path:
        """Where the file is found by its name, once fetched."""
        return self.snapshot_folder(file.repository, file.revision) / file.path

    def _download(self, file: HubFile, blob: Path, count_bytes: CountBytes) -> None:
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get

        part = _part_of(blob)
        part.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(file.repository, file.revision):
            url = hf_hub_url(file.repository, file.path, revision=file.revision, endpoint=self.endpoint)
            headers = HfApi(token=self.token or False)._build_hf_headers()
            metadata = get_hf_file_metadata(url, token=self.token or False, endpoint=self.endpoint)
            if not _same_host(url, metadata.location):
                headers.pop("authorization", None)  # the token is for the Hub, never for its storage servers
            with part.open("ab") as stream:
                already = stream.tell()
                count_bytes(already)
                http_get(
                    metadata.location,
                    stream,
                    resume_size=already,
                    headers=headers,
                    expected_size=file.size,
                    tqdm_class=_counting_bar(count_bytes),
                )
                stream.flush()
                os.fsync(stream.fileno())  # a name must not outlive the bytes that it stands for
        _verify_or_delete(part, file, count_bytes)
        os.replace(part, blob)

    def _point_to(self, file: HubFile, blob: Path) -> Path:
        """The snapshot entry of `file`, as the Hub's own client lays it out: a link to the blob."""
        pointer = self.snapshot_path(file)
        if not pointer.exists() or (blob.is_file() and not pointer.is_symlink()):
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)  # a dangling link, or an older file in its place
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:  # file systems without links: the Hub's client moves the file there as well
                os.replace(blob, pointer)
        return pointer

    def _storage(self, repository: str) -> Path:
        return self.cache_dir / f"models--{repository.replace('/', '--')}"

    def _blob(self, file: HubFile) -> Path:
        return self._storage(file.repository) / "blobs" / file.digest

    def _is_here(self, file: HubFile) -> bool:
        """Whether all of it lies under its hash; or under its name, where there are no links."""
        pointer = self.snapshot_path(file)
        is_in_place = pointer.is_file() and not pointer.is_symlink() and pointer.stat().st_size == file.size
        return is_in_place or self._blob(file).is_file()

    def _file_lock(self, file: HubFile, count_bytes: CountBytes) -> AbstractContextManager[None]:
        """The lock that the Hub's own client takes as well."""
        folder = self.cache_dir / ".locks" / f"models--{file.repository.replace('/', '--')}"
        return holding(folder / f"{file.digest}.lock", lambda: count_bytes(0))

    def _refuse_when_offline(self, repository: str) -> None:
        if self.is_offline:
            raise MissingWeights(
                f"{repository} is not on this computer, and HF_HUB_OFFLINE forbids to fetch it.",
                hint="Unset HF_HUB_OFFLINE for the first time, or name a folder that holds the files.",
                code="offline",
            )

    @contextmanager
    def _explained(self, repository: str, revision: str) -> Iterator[None]:
        """Turn what the Hub's client raises into a sentence that says what to click."""
        from huggingface_hub import errors

        transport_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # httpx or httpx2
        page = f"{self.endpoint}/{repository}"
        try:
            yield
        except errors.GatedRepoError as error:
            raise DownloadFailed(
                f"{repository} is gated: its authors want to know who downloads it.",
                hint=f"Open {page}, sign in and click 'Agree and access repository'; then make a read token "
                f"at {self.endpoint}/settings/tokens and set HF_TOKEN.",
                code="gated",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise DownloadFailed(
                f"{repository} has no revision {revision}.",
                hint=f"Look at {page}/commits/main; the pinned revision may have been removed.",
                code="revision",
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise DownloadFailed(
                f"{repository} was not found, or is private.",
                hint=f"Open {page}; if you can see it when signed in, set HF_TOKEN to a read token of yours.",
                code="repository",
            ) from error
        except errors.EntryNotFoundError as error:
            raise DownloadFailed(
                f"{repository} misses a file at revision {revision}.", hint=f"Look at {page}/tree/{revision}."
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "no status"
            if status in (401, 403):
                raise DownloadFailed(
                    f"The Hub refuses {repository} to this token (HTTP {status}).",
                    hint=f"It may have expired, or may not read gated repositories: look at {self.endpoint}"
                    "/settings/tokens, then set HF_TOKEN anew or unset it.",
                    code="token",
                ) from error
            raise DownloadFailed(
                f"The Hub refused {repository} (HTTP {status}).", hint="Wait a minute, then try again."
            ) from error
        except (transport_error, ConnectionError, errors.FileMetadataError) as error:
            raise DownloadFailed(
                f"The connection to {self.endpoint} failed or was cut while fetching {repository}.",
                hint="Check the network and HF_ENDPOINT, then start again: it goes on where it stopped.",
                code="no_network",
            ) from error


def read_hub(environ: Mapping[str, str] | None = None) -> Hub:
    """The Hub as HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE describe it."""
    from huggingface_hub import get_token

    env = os.environ if environ is None else environ
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache_dir = Path(env.get("HF_HUB_CACHE") or home / "hub")
    return Hub(
        endpoint=(env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
        cache_dir=cache_dir.expanduser(),
        token=env.get("HF_TOKEN", "").strip() or (get_token() if environ is None else None),
        is_offline=env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
    )


def require_pinned(repository: str, revision: str) -> None:
    """Raise WeightsMismatch unless `revision` is a full commit hash: a branch name can change overnight."""
    if not PINNED.fullmatch(revision):
        raise WeightsMismatch(
            f"The revision of {repository} is {revision!r}; allowed: a commit hash of 40 hexadecimal digits.",
            hint="Copy the full hash from the repository's list of commits.",
            code="unpinned",
        )


def cached_snapshot(hub: Hub, repository: str, revision: str) -> tuple[HubFile, ...]:
    """What the local cache holds of `repository` at `revision`; digests are the names of the blobs."""
    folder = hub.snapshot_folder(repository, revision)
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple(
        HubFile(
            repository,
            revision,
            path.relative_to(folder).as_posix(),
            path.stat().st_size,
            path.resolve().name,
        )
        for path in found
    )


def verify_file(path: Path, digest: str, name: str, count_bytes: CountBytes) -> None:
    """Raise CorruptWeights unless the content of `path` has `digest` (SHA-256, or git blob SHA-1)."""
    if hash_file(path, digest, count_bytes) != digest:
        raise CorruptWeights(
            f"{name} does not have the content that its publisher recorded (its hash differs).",
            hint="It was removed; fetch it again. If it happens twice, check the disk and the network.",
        )


def hash_file(path: Path, like: str, count_bytes: CountBytes) -> str:
    """Hexadecimal digest of a file, of the same kind as `like`: 64 digits SHA-256, 40 git blob SHA-1."""
    is_git = len(like) == 40
    digest = hashlib.sha1(usedforsecurity=False) if is_git else hashlib.sha256()
    if is_git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
            count_bytes(len(block))
    return digest.hexdigest()


def _verify_or_delete(part: Path, file: HubFile, count_bytes: CountBytes) -> None:
    try:
        verify_file(part, file.digest, file.path, lambda _: count_bytes(0))
    except CheckpointError:
        part.unlink()
        raise


def _part_of(blob: Path) -> Path:
    # The Hub's client gives each call a new temporary name, so it cannot go on after the process ended.
    return blob.with_name(f"{blob.name}.part")


def _hub_file(repository: str, revision: str, sibling: Any) -> HubFile:
    """One line of a listing. Name and digest become paths in the cache, whatever HF_ENDPOINT answers."""
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    name = PurePosixPath(sibling.rfilename)
    if name.is_absolute() or ".." in name.parts or not DIGEST.fullmatch(str(digest)):
        raise DownloadFailed(
            f"The listing of {repository} holds a name or a hash that leads out of its folder.",
            hint="Check HF_ENDPOINT: this is no listing of the Hub.",
            code="listing",
        )
    return HubFile(repository, revision, sibling.rfilename, sibling.size or 0, digest)


def _same_host(url: str, location: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).netloc == urlsplit(location).netloc


def _counting_bar(count_bytes: CountBytes) -> Any:
    """A stand-in for tqdm that hands each step to `count_bytes`."""

    class CountingBar:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def update(self, num_bytes: float = 1) -> None:
            count_bytes(int(num_bytes))

        def close(self) -> None:
            pass

        def __enter__(self) -> CountingBar:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    return CountingBar
