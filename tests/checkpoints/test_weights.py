"""From the Hub to a locked folder: the golden layouts through the real client, the real converter process."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cxr_assistant.checkpoints import chexagent, fetching, weights
from cxr_assistant.checkpoints.blindness import measure_image_effect, require_sight
from cxr_assistant.checkpoints.hub import Hub
from cxr_assistant.checkpoints.licences import accept_licence, is_licence_accepted, require_licence
from cxr_assistant.checkpoints.lock import LOCK_NAME, check_folder, read_lock
from cxr_assistant.checkpoints.progress import Progress, Stage
from cxr_assistant.checkpoints.spec import Checkpoint, find_module, get_checkpoint
from cxr_assistant.cli.main import main
from cxr_assistant.errors import (
    CheckpointError,
    CorruptWeights,
    DownloadFailed,
    LicenceNotAccepted,
    MissingWeights,
    NotEnoughDisk,
    UnknownCheckpoint,
    WeightsMismatch,
)
from cxr_assistant.models.upcast import computing_in_float32
from tests.conftest import PROJECT_ROOT
from tests.loopback_hub import LoopbackHub, online, published

CHEXAGENT = get_checkpoint("chexagent")
FIXTURE = PROJECT_ROOT / "tests" / "fixtures" / "golden" / "chexagent_tiny"
SHARD = "model-00002-of-00002.safetensors"

ONE_PROCESS = """
import sys
from pathlib import Path
from cxr_assistant.checkpoints import weights
from cxr_assistant.checkpoints.spec import get_checkpoint
stages = []
weights.fetch(get_checkpoint("chexagent"), Path(sys.argv[1]), on_progress=lambda p: stages.append(p.stage))
print("waited" if "waiting" in stages else "worked" if "converting" in stages else "found")
"""


@pytest.fixture(scope="module", autouse=True)
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        accept_licence(CHEXAGENT)
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with online(monkeypatch), LoopbackHub(published("chexagent")) as server:
        yield server


@pytest.fixture
def hub(server: LoopbackHub, tmp_path: Path) -> Hub:
    return Hub(server.endpoint, tmp_path / "hub", token=None, is_offline=False)


class Fetched:
    """What one whole fetch left behind and said on the way."""

    def __init__(self, root: Path, server: LoopbackHub) -> None:
        self.weights_dir, self.hub = root / "weights", Hub(server.endpoint, root / "hub", None, False)
        self.progress: list[Progress] = []
        self.folder = weights.fetch(
            CHEXAGENT, self.weights_dir, hub=self.hub, on_progress=self.progress.append
        )


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetched]:
    with pytest.MonkeyPatch.context() as patch, online(patch):
        with LoopbackHub(published("chexagent")) as server:
            yield Fetched(tmp_path_factory.mktemp("fetched"), server)


# -------------------------------------------------------------------- the whole way


def test_a_fetched_checkpoint_builds_and_is_located(fetched: Fetched) -> None:
    folder = weights.locate(CHEXAGENT, weights_dir=fetched.weights_dir)
    assert folder == fetched.folder == weights.folder_of(CHEXAGENT, fetched.weights_dir)
    model = chexagent.build(folder, device="cpu", precision="fp32")
    assert model.processor.num_image_tokens == 1024


def test_the_lock_says_what_was_made_of_what(fetched: Fetched) -> None:
    lock = check_folder(fetched.folder, "chexagent", hashing=True)
    source = f"{CHEXAGENT.repository}@{CHEXAGENT.revision}/{SHARD}"
    assert lock.sources[source] == published("chexagent")[0].etag(SHARD)
    assert (lock.revision, lock.precision) == (CHEXAGENT.revision, "fp32")
    assert lock.image_effect > 1  # another picture moved the logits
    assert "model.safetensors" in lock.files


def test_only_what_is_needed_is_downloaded(fetched: Fetched) -> None:
    names = {path.name for path in fetched.hub.cache_dir.rglob("snapshots/*/*")}
    assert SHARD in names
    assert not names & {"goldens.npz", "image_1.png", "README.md"}


def test_one_progress_display_goes_through_all_stages(fetched: Fetched) -> None:
    stages = list(dict.fromkeys(reading.stage for reading in fetched.progress))
    order = [Stage.DOWNLOADING, Stage.VERIFYING, Stage.CONVERTING, Stage.TESTING, Stage.READY]
    assert stages == [stage for stage in order if stage in stages]
    assert {Stage.DOWNLOADING, Stage.VERIFYING, Stage.CONVERTING, Stage.READY} <= set(stages)
    last = [reading for reading in fetched.progress if reading.stage is Stage.DOWNLOADING][-1]
    assert last.done_bytes == last.total_bytes > 1_000_000


@pytest.mark.requirement("W5", "W7")
def test_the_second_time_needs_no_network(fetched: Fetched) -> None:
    nowhere = Hub("http://127.0.0.1:9", fetched.hub.cache_dir, token=None, is_offline=True)
    assert weights.fetch(CHEXAGENT, fetched.weights_dir, hub=nowhere) == fetched.folder


def test_offline_with_a_full_cache_needs_conversion_only(fetched: Fetched, tmp_path: Path) -> None:
    offline = Hub("http://127.0.0.1:9", fetched.hub.cache_dir, token=None, is_offline=True)
    plan = weights.plan_fetch(CHEXAGENT, tmp_path, hub=offline)
    assert plan.download_bytes == 0
    assert plan.convert_bytes > 1_000_000


def test_a_full_cache_needs_no_network(fetched: Fetched, tmp_path: Path) -> None:
    no_network = Hub("http://127.0.0.1:9", fetched.hub.cache_dir, token=None, is_offline=False)
    assert weights.plan_fetch(CHEXAGENT, tmp_path, hub=no_network).download_bytes == 0


def test_a_cache_that_misses_a_shard_of_its_index_asks_the_hub(fetched: Fetched, tmp_path: Path) -> None:
    shutil.copytree(fetched.hub.cache_dir, tmp_path / "hub", symlinks=True)
    next((tmp_path / "hub").rglob(f"snapshots/*/{SHARD}")).unlink()
    with pytest.raises(DownloadFailed, match="connection"):
        weights.plan_fetch(CHEXAGENT, tmp_path, hub=Hub("http://127.0.0.1:9", tmp_path / "hub", None, False))


def test_a_converted_folder_can_be_named(fetched: Fetched) -> None:
    assert weights.locate(CHEXAGENT, fetched.folder) == fetched.folder


def test_the_embedded_model_is_ready_when_its_tensors_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PROJECT_ROOT", tmp_path)  # without the committed folder
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "config.json").touch()
    assert not weights.is_ready(get_checkpoint("embedded"), tmp_path)
    (tmp_path / "embedded" / "model.safetensors").touch()
    assert weights.is_ready(get_checkpoint("embedded"), tmp_path)


@pytest.mark.requirement("W2", "W3")
def test_our_configuration_asks_for_no_code(fetched: Fetched) -> None:
    config = json.loads((fetched.folder / "config.json").read_text("utf-8"))
    assert "auto_map" not in config
    assert config["model_type"] != "phi"  # what a text-only loader would take


# -------------------------------------------------------------------- what goes wrong on the way


@pytest.mark.requirement("W1", "W7")
def test_one_flipped_byte_is_refused_and_nothing_is_converted(
    hub: Hub, server: LoopbackHub, tmp_path: Path
) -> None:
    server.flipped = {SHARD}
    with pytest.raises(CorruptWeights, match="hash differs"):
        weights.fetch(CHEXAGENT, tmp_path / "weights", hub=hub)
    assert not weights.folder_of(CHEXAGENT, tmp_path / "weights").exists()
    assert not list(hub.cache_dir.rglob("*.part"))


def test_a_byte_that_flips_in_the_cache_is_found_before_conversion(
    hub: Hub, fetched: Fetched, tmp_path: Path
) -> None:
    shutil.copytree(fetched.hub.cache_dir, hub.cache_dir, symlinks=True)
    blob = next(hub.cache_dir.rglob(f"snapshots/*/{SHARD}")).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CorruptWeights, match="hash differs"):
        weights.fetch(CHEXAGENT, tmp_path / "weights", hub=hub)
    assert not blob.exists()  # the next fetch starts this file afresh


def test_a_full_disk_is_seen_before_anything_starts(
    hub: Hub, server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(NotEnoughDisk, match=r"GB are needed .* GB are free"):
        weights.fetch(CHEXAGENT, tmp_path / "weights", hub=hub)
    assert not server.sent


def test_a_quota_that_ends_during_the_download(hub: Hub, tmp_path: Path) -> None:
    with file_size_limit(200_000), pytest.raises(NotEnoughDisk, match="the download could not be written"):
        weights.fetch(CHEXAGENT, tmp_path / "weights", hub=hub)


def test_a_quota_that_ends_during_conversion_leaves_nothing(
    hub: Hub, fetched: Fetched, tmp_path: Path
) -> None:
    shutil.copytree(fetched.hub.cache_dir, hub.cache_dir, symlinks=True)
    target = tmp_path / "weights"
    with file_size_limit(900_000), pytest.raises(NotEnoughDisk, match="converted checkpoint"):
        weights.fetch(CHEXAGENT, target, hub=hub)
    assert [path.name for path in target.iterdir()] == [".locks"]


@pytest.mark.requirement("W7")
def test_a_killed_converter_leaves_nothing_and_says_so(hub: Hub, fetched: Fetched, tmp_path: Path) -> None:
    def kill_child(reading: Progress) -> None:
        if reading.stage is Stage.TESTING:  # all is written by now, and nothing is accepted yet
            children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text("ascii")
            for pid in children.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    shutil.copytree(fetched.hub.cache_dir, hub.cache_dir, symlinks=True)
    target = tmp_path / "weights"
    for _ in range(10):  # the converter may be done with its tests before it is killed
        try:
            weights.fetch(CHEXAGENT, target, hub=hub, on_progress=kill_child)
        except CheckpointError as error:
            assert "ended by SIGKILL" in error.message and "the download is kept" in error.hint
            break
        shutil.rmtree(target)
    else:
        pytest.fail("No converter was killed in ten attempts.")
    assert [path.name for path in target.iterdir()] == [".locks"]


def test_two_processes_share_one_download(server: LoopbackHub, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    command = [sys.executable, "-c", ONE_PROCESS, str(tmp_path / "weights")]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=100)[0].strip() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said == ["waited", "worked"]
    assert server.sent[SHARD] == (FIXTURE / SHARD).stat().st_size  # sent once


def test_a_file_that_the_hub_misses_is_named(hub: Hub, server: LoopbackHub, tmp_path: Path) -> None:
    del server.repositories[0].files["vocab.json"]
    with pytest.raises(MissingWeights, match=r"misses vocab\.json"):
        weights.fetch(CHEXAGENT, tmp_path / "weights", hub=hub)


# -------------------------------------------------------------------- folders


@pytest.fixture
def copy(fetched: Fetched, tmp_path: Path) -> Path:
    shutil.copytree(fetched.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_weights_that_were_never_fetched_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="not on this computer yet") as caught:
        weights.locate(CHEXAGENT, weights_dir=tmp_path)
    assert "checkpoints fetch chexagent" in caught.value.hint


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="does not exist"):
        weights.locate(CHEXAGENT, tmp_path / "absent")


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeights, match="holds no files of it"):
        weights.locate(CHEXAGENT, tmp_path / "empty", weights_dir=tmp_path / "weights")


def test_a_folder_of_another_checkpoint(copy: Path) -> None:
    accept_licence(get_checkpoint("cxr-llava"))
    with pytest.raises(WeightsMismatch, match="holds 'chexagent'; asked for: 'cxr-llava'"):
        weights.locate(get_checkpoint("cxr-llava"), copy)


def test_a_missing_file_of_a_converted_folder(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"model\.safetensors is missing"):
        weights.locate(CHEXAGENT, copy)


@pytest.mark.requirement("W1")
def test_a_changed_file_of_a_converted_folder(copy: Path) -> None:
    with (copy / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CorruptWeights, match="not as it was written"):
        weights.locate(CHEXAGENT, copy)


def test_verifying_hashes_every_byte_and_says_how_far_it_is(copy: Path) -> None:
    seen: list[Progress] = []
    folder, lock = weights.verify(CHEXAGENT, copy, on_progress=seen.append)
    assert (folder, lock.checkpoint) == (copy, "chexagent")
    assert seen[-1].done_bytes == seen[-1].total_bytes == sum(r.size for r in lock.files.values())


def test_a_byte_flipped_in_place_is_found_when_asked_for(copy: Path) -> None:
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    check_folder(copy, "chexagent")
    with pytest.raises(CorruptWeights, match="model.safetensors of a converted checkpoint is not"):
        weights.verify(CHEXAGENT, copy)


def test_a_damaged_lock(copy: Path) -> None:
    (copy / LOCK_NAME).write_text("{", "utf-8")
    with pytest.raises(CorruptWeights, match="lock"):
        weights.locate(CHEXAGENT, copy)


def test_a_folder_of_an_older_converter_is_not_loaded(copy: Path) -> None:
    replace(read_lock(copy), converter_version=0).write(copy)
    with pytest.raises(WeightsMismatch, match="made by converter 0"):
        weights.locate(CHEXAGENT, copy)


@pytest.mark.parametrize("harm", ["older", "damaged"])
def test_what_was_converted_from_a_folder_is_made_again_where_it_must_be(tmp_path: Path, harm: str) -> None:
    folder = weights.locate(CHEXAGENT, FIXTURE, weights_dir=tmp_path)
    if harm == "older":
        replace(read_lock(folder), converter_version=0).write(folder)
    else:
        os.truncate(folder / "model.safetensors", 100)
    assert weights.locate(CHEXAGENT, FIXTURE, weights_dir=tmp_path) == folder
    check_folder(folder, "chexagent", hashing=True)


def test_a_configuration_that_lost_its_content_is_seen_though_its_size_is_right(copy: Path) -> None:
    path = copy / "config.json"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CorruptWeights, match="not as it was written"):
        weights.locate(CHEXAGENT, copy)


def test_a_file_that_is_no_json_is_named(copy: Path) -> None:
    (copy / "added.json").write_text("{", "utf-8")
    with pytest.raises(CorruptWeights, match="added.json is no JSON"):
        weights.locate(CHEXAGENT, copy)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_the_command_line_verifies(copy: Path, capsys: pytest.CaptureFixture[str], is_flipped: bool) -> None:
    if is_flipped:
        content = bytearray((copy / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (copy / "model.safetensors").write_bytes(content)
    code = main(["checkpoints", "verify", "chexagent", "--weights", str(copy), "--json"])
    said = capsys.readouterr()
    assert (code == 0) is not is_flipped
    assert ("not as it was written" if is_flipped else '"status": "ok"') in said.out + said.err


def test_an_index_that_a_power_cut_emptied_is_fetched_again(
    server: LoopbackHub, hub: Hub, tmp_path: Path
) -> None:
    plan = weights.plan_fetch(CHEXAGENT, tmp_path, hub=hub)
    for file in plan.files:
        hub.fetch(file, lambda _: None)
    index = next(file for file in plan.files if file.path.endswith(".index.json"))
    hub.snapshot_path(index).resolve().write_bytes(b"")
    with pytest.raises(CorruptWeights, match="removed; fetch it again|hash differs"):
        weights.fetch(CHEXAGENT, tmp_path, hub=hub)
    weights.fetch(CHEXAGENT, tmp_path, hub=hub)


def test_a_disk_on_which_nothing_is_written_may_be_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetching, "free_bytes", lambda folder: 0 if folder.name == "cache" else 10**12)
    fetching.FetchPlan((), 0, 1, {tmp_path / "cache": 0, tmp_path / "weights": 1}).require_disk()


@pytest.mark.requirement("W3")
def test_a_configuration_that_asks_for_code(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text("utf-8"))
    config["auto_map"] = {"AutoModel": "modeling_evil.Model"}
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    lock = read_lock(copy)
    replace(lock, files={k: v for k, v in lock.files.items() if k != "config.json"}).write(copy)
    with pytest.raises(WeightsMismatch, match="asks to run code"):
        weights.locate(CHEXAGENT, copy)


def test_an_unknown_checkpoint_lists_the_names() -> None:
    with pytest.raises(UnknownCheckpoint, match="Unknown checkpoint 'llava_rad'; available: .*chexagent, "):
        get_checkpoint("llava_rad")


# -------------------------------------------------------------------- conversion


def test_published_files_in_a_folder_are_converted_on_first_use(tmp_path: Path) -> None:
    folder = weights.locate(CHEXAGENT, FIXTURE, weights_dir=tmp_path)
    again = weights.locate(CHEXAGENT, FIXTURE, weights_dir=tmp_path)
    assert folder == again
    assert read_lock(folder).sources[SHARD] == published("chexagent")[0].etag(SHARD)


def test_a_checkpoint_that_ignores_the_image_is_refused(tmp_path: Path) -> None:
    blind, target = tmp_path / "blind", fresh(tmp_path)
    shutil.copytree(FIXTURE, blind)
    overwrite(blind, "model.visual.proj", 0.0)
    chexagent.convert([blind], target, precision="fp32")
    model = chexagent.build(target, device="cpu", precision="fp32")
    with pytest.raises(WeightsMismatch, match="ignores the image") as caught:
        require_sight(CHEXAGENT, find_module("chexagent"), model)
    assert caught.value.code == "blind"


def test_half_precision_weights_are_tested_in_float32_one_layer_at_a_time(tmp_path: Path) -> None:
    target = fresh(tmp_path)
    chexagent.convert([FIXTURE], target, precision="fp16")
    model = chexagent.build(target, device="cpu", precision="fp16")
    with computing_in_float32(model):
        effect, _ = measure_image_effect(CHEXAGENT, find_module("chexagent"), model)
    assert effect > 1
    assert {p.dtype for p in model.language_model.parameters()} == {torch.float16}


def test_a_text_only_copy_is_refused(tmp_path: Path) -> None:
    without_visual = tmp_path / "text-only"
    shutil.copytree(FIXTURE, without_visual)
    keep_only(without_visual, lambda name: not name.startswith("model.visual."))
    with pytest.raises(WeightsMismatch, match="are missing: model.visual"):
        chexagent.convert([without_visual], fresh(tmp_path), precision="fp32")


def test_a_plain_phi_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "phi"
    shutil.copytree(FIXTURE, plain)
    config = json.loads((plain / "config.json").read_text("utf-8"))
    del config["visual"]
    (plain / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(WeightsMismatch, match="text-only model"):
        chexagent.convert([plain], fresh(tmp_path), precision="fp32")


def test_leftover_tensors_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(FIXTURE, folder)
    add_tensor(folder, "adapter.weight")
    with pytest.raises(WeightsMismatch, match=r"left over.*adapter\.weight"):
        chexagent.convert([folder], fresh(tmp_path), precision="fp32")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "less"
    shutil.copytree(FIXTURE, folder)
    (folder / SHARD).unlink()
    with pytest.raises(MissingWeights, match=SHARD):
        chexagent.convert([folder], fresh(tmp_path), precision="fp32")


def test_a_cut_off_shard_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(FIXTURE, folder)
    os.truncate(folder / SHARD, 300_000)
    with pytest.raises(CorruptWeights, match="cut off"):
        chexagent.convert([folder], fresh(tmp_path), precision="fp32")


# -------------------------------------------------------------------- licences


def test_terms_are_asked_once_per_user_and_again_when_they_change(tmp_path: Path) -> None:
    user = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(LicenceNotAccepted, match="CC BY-NC") as caught:
        require_licence(CHEXAGENT, user)
    assert "--accept-licence chexagent" in caught.value.hint
    accept_licence(CHEXAGENT, user)
    require_licence(CHEXAGENT, user)
    changed: Checkpoint = replace(CHEXAGENT, licence=replace(CHEXAGENT.licence, terms="New terms."))
    assert not is_licence_accepted(changed, user)


def test_nothing_is_fetched_or_located_before_the_terms_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for ask in (weights.fetch, weights.locate):
        with pytest.raises(LicenceNotAccepted):
            ask(CHEXAGENT)


# -------------------------------------------------------------------- helpers


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """The system's own quota on one file: writing past it fails in this process and in its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fresh(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def overwrite(folder: Path, name: str, value: float) -> None:
    edit(folder, lambda tensors: {**tensors, **({name: tensors[name] * value} if name in tensors else {})})


def keep_only(folder: Path, keeps: object) -> None:
    edit(folder, lambda tensors: {name: t for name, t in tensors.items() if keeps(name)})  # type: ignore[operator]


def add_tensor(folder: Path, name: str) -> None:
    edit(folder, lambda tensors: {**tensors, name: torch.zeros(2, 2)})


def edit(folder: Path, change: object) -> None:
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*.safetensors"):
        save_file(change(load_file(path)), path)  # type: ignore[operator]
