"""The real Hub client against a loopback hub: pinned, resumed, verified, explained."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr_assistant.checkpoints.hub import Hub, HubFile, cached_snapshot, read_hub
from cxr_assistant.errors import CorruptWeights, DownloadFailed, MissingWeights, WeightsMismatch
from tests.loopback_hub import LoopbackHub, Repository

REVISION = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 1024  # 256 KiB
CHUNK_BYTES = 16 * 1024


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    files = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "README.md": b"card"}
    close_session()
    with LoopbackHub([Repository("lab/open", REVISION, files)]) as server:
        yield server
    close_session()


@pytest.fixture
def hub(server: LoopbackHub, tmp_path: Path) -> Hub:
    return Hub(server.endpoint, tmp_path / "hub", token=None, is_offline=False)


def file_named(hub: Hub, path: str) -> HubFile:
    return next(file for file in hub.list_files("lab/open", REVISION) if file.path == path)


def leftovers(hub: Hub) -> list[str]:
    return [
        path.name for path in hub.cache_dir.rglob("*") if path.is_file() and not path.name.endswith(".lock")
    ]


def ignore(_: int) -> None:
    return None


def test_files_are_listed_with_size_and_digest(hub: Hub) -> None:
    weights = file_named(hub, "model.safetensors")
    assert (weights.size, weights.digest) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())


@pytest.mark.parametrize("path", ["../../evil.safetensors", "/tmp/evil.safetensors", "a/../../../evil.bin"])
def test_a_name_that_leads_out_of_the_cache_is_refused(hub: Hub, server: LoopbackHub, path: str) -> None:
    server.find("lab/open").files[path] = b"evil"  # type: ignore[union-attr]
    with pytest.raises(DownloadFailed, match="leads out of its folder"):
        hub.list_files("lab/open", REVISION)


def test_a_hash_that_is_none_names_no_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repository, "etag", lambda self, path: "../../../evil")
    with pytest.raises(DownloadFailed, match="leads out of its folder"):
        hub.list_files("lab/open", REVISION)


def test_a_fetched_file_lies_where_the_hubs_own_client_looks(hub: Hub) -> None:
    from huggingface_hub import try_to_load_from_cache

    path = hub.fetch(file_named(hub, "model.safetensors"), ignore)
    assert path.read_bytes() == WEIGHTS
    found = try_to_load_from_cache(
        "lab/open", "model.safetensors", cache_dir=hub.cache_dir, revision=REVISION
    )
    assert found == str(path)


def test_a_second_fetch_asks_the_network_for_nothing(hub: Hub, server: LoopbackHub) -> None:
    file = file_named(hub, "model.safetensors")
    hub.fetch(file, ignore)
    server.sent.clear()
    hub.fetch(file, ignore)
    assert not server.sent


def test_progress_counts_every_byte_once(hub: Hub) -> None:
    counted: list[int] = []
    hub.fetch(file_named(hub, "model.safetensors"), counted.append)
    assert sum(counted) == len(WEIGHTS)
    assert len(counted) > 5


def test_a_cut_connection_is_resumed(hub: Hub, server: LoopbackHub) -> None:
    server.cut_after, server.num_cuts = {"model.safetensors": 100_000}, 1
    path = hub.fetch(file_named(hub, "model.safetensors"), ignore)
    assert path.read_bytes() == WEIGHTS
    assert server.ranges and server.ranges[0] != "bytes=0-"


def test_what_a_killed_process_left_is_continued(hub: Hub, server: LoopbackHub) -> None:
    def die_midway(num_bytes: int) -> None:
        seen.append(num_bytes)
        if sum(seen) > len(WEIGHTS) // 2:
            raise KeyboardInterrupt

    seen: list[int] = []
    file = file_named(hub, "model.safetensors")
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(file, die_midway)
    left = hub.bytes_missing(file)
    assert 0 < left < len(WEIGHTS)
    # What is asked for, not what is sent: the server may still be sending to the one that is gone.
    server.ranges.clear()
    assert hub.fetch(file, ignore).read_bytes() == WEIGHTS
    assert server.ranges == [f"bytes={len(WEIGHTS) - left}-"]


def test_a_line_that_stays_dead_says_that_it_goes_on_later(hub: Hub, server: LoopbackHub) -> None:
    server.cut_after = {"model.safetensors": 0}
    with pytest.raises(DownloadFailed, match="failed or was cut") as caught:
        hub.fetch(file_named(hub, "model.safetensors"), ignore)
    assert "goes on where it stopped" in caught.value.hint


@pytest.mark.requirement("W1")
def test_one_flipped_byte_is_refused_and_nothing_stays(hub: Hub, server: LoopbackHub) -> None:
    server.flipped = {"model.safetensors"}
    with pytest.raises(CorruptWeights, match="hash differs"):
        hub.fetch(file_named(hub, "model.safetensors"), ignore)
    assert leftovers(hub) == []


def test_small_files_are_verified_too(hub: Hub, server: LoopbackHub) -> None:
    server.flipped = {"config.json"}
    with pytest.raises(CorruptWeights, match=r"config\.json"):
        hub.fetch(file_named(hub, "config.json"), ignore)


def test_the_token_never_reaches_the_storage_servers(server: LoopbackHub, tmp_path: Path) -> None:
    hub = Hub(server.endpoint, tmp_path / "hub", token="hf_reader", is_offline=False)
    hub.fetch(file_named(hub, "model.safetensors"), ignore)
    assert server.tokens_at_storage == []


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("revision", ["main", "v1.0", REVISION[:12], REVISION.upper()])
def test_an_unpinned_revision_is_refused_before_the_network(hub: Hub, revision: str) -> None:
    with pytest.raises(WeightsMismatch, match="40 hexadecimal digits"):
        hub.list_files("lab/open", revision)


def test_a_revision_that_does_not_exist_says_where_to_look(hub: Hub) -> None:
    with pytest.raises(DownloadFailed, match="has no revision") as caught:
        hub.list_files("lab/open", "f" * 40)
    assert caught.value.code == "revision"
    assert "/commits/main" in caught.value.hint


def test_a_mirror_that_serves_another_commit_is_refused(hub: Hub, server: LoopbackHub) -> None:
    server.wrong_commit = "f" * 40
    with pytest.raises(DownloadFailed, match="answered with revision"):
        hub.list_files("lab/open", REVISION)


@pytest.mark.parametrize("token", [None, "hf_reader"], ids=["stranger", "not-yet-allowed"])
def test_a_gated_repository_says_what_to_click(
    server: LoopbackHub, tmp_path: Path, token: str | None
) -> None:
    server.repositories.append(Repository("lab/gated", REVISION, {"config.json": b"{}"}, is_gated=True))
    hub = Hub(server.endpoint, tmp_path, token=token, is_offline=False)
    with pytest.raises(DownloadFailed, match="gated") as caught:
        hub.list_files("lab/gated", REVISION)
    assert "Agree and access repository" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint


def test_a_gated_repository_opens_with_the_right_token(server: LoopbackHub, tmp_path: Path) -> None:
    server.repositories.append(Repository("lab/gated", REVISION, {"config.json": b"{}"}, is_gated=True))
    hub = Hub(server.endpoint, tmp_path, token="hf_reader_allowed", is_offline=False)
    assert [file.path for file in hub.list_files("lab/gated", REVISION)] == ["config.json"]


def test_a_missing_repository_says_that_it_may_be_private(hub: Hub) -> None:
    with pytest.raises(DownloadFailed, match="not found, or is private") as caught:
        hub.list_files("lab/absent", REVISION)
    assert caught.value.code == "repository"


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_the_hub_refuses_is_named(hub: Hub, server: LoopbackHub, status: int) -> None:
    server.bare_refusal = status
    with pytest.raises(DownloadFailed, match=f"to this token .HTTP {status}") as caught:
        hub.list_files("lab/open", REVISION)
    assert caught.value.code == "token" and "HF_TOKEN" in str(caught.value.hint)


def test_a_login_page_is_no_listing(hub: Hub, server: LoopbackHub) -> None:
    server.login_page = True
    with pytest.raises(DownloadFailed, match="no listing of the Hub") as caught:
        hub.list_files("lab/open", REVISION)
    assert caught.value.code == "listing"


def test_a_token_is_taken_without_what_stands_around_it(tmp_path: Path) -> None:
    assert read_hub({"HF_HOME": str(tmp_path), "HF_TOKEN": " hf_reader\n"}).token == "hf_reader"


def test_a_whole_cache_serves_where_nothing_can_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_named(hub, "model.safetensors")
    path = hub.fetch(file, ignore)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert hub.fetch(file, ignore) == path


def test_without_links_nothing_is_fetched_twice(
    hub: Hub, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    file = file_named(hub, "model.safetensors")
    path = hub.fetch(file, ignore)
    assert not path.is_symlink() and path.read_bytes() == WEIGHTS
    sent = server.sent["model.safetensors"]
    assert hub.bytes_missing(file) == 0 and hub.fetch(file, ignore) == path
    assert server.sent["model.safetensors"] == sent
    path.write_bytes(b"cut off")
    assert hub.bytes_missing(file) == len(WEIGHTS)
    assert hub.fetch(file, ignore).read_bytes() == WEIGHTS


def test_who_waits_for_a_file_can_be_stopped(hub: Hub) -> None:
    file = file_named(hub, "model.safetensors")

    def stop(_: int) -> None:
        raise InterruptedError

    with hub._file_lock(file, ignore):
        with ThreadPoolExecutor(1) as other, pytest.raises(InterruptedError):
            other.submit(hub.fetch, file, stop).result(30)


def test_no_network_is_a_sentence(tmp_path: Path, server: LoopbackHub) -> None:
    hub = Hub(
        "http://127.0.0.1:9", tmp_path, token=None, is_offline=False
    )  # the discard port: nobody listens
    with pytest.raises(DownloadFailed, match="connection to .* failed") as caught:
        hub.list_files("lab/open", REVISION)
    assert caught.value.code == "no_network"


@pytest.mark.requirement("W5")
def test_offline_serves_the_cache_and_refuses_the_rest(hub: Hub) -> None:
    hub.fetch(file_named(hub, "model.safetensors"), ignore)
    offline = Hub(hub.endpoint, hub.cache_dir, token=None, is_offline=True)
    (kept,) = cached_snapshot(offline, "lab/open", REVISION)
    assert kept.digest == hashlib.sha256(WEIGHTS).hexdigest()
    assert offline.fetch(kept, ignore).read_bytes() == WEIGHTS
    with pytest.raises(MissingWeights, match="HF_HUB_OFFLINE"):
        offline.list_files("lab/open", REVISION)


def test_the_environment_is_honoured(tmp_path: Path) -> None:
    hub = read_hub(
        {
            "HF_ENDPOINT": "https://mirror.example/",
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": "t",
            "HF_HUB_OFFLINE": "1",
        }
    )
    assert hub == Hub("https://mirror.example", tmp_path / "hub", "t", True)
