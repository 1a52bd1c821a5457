"""Every way in which a model cannot be had or used, in words: what was found, what is allowed, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxr_assistant.assistant import Assistant
from cxr_assistant.checkpoints import chexagent, weights
from cxr_assistant.checkpoints.hub import Hub
from cxr_assistant.checkpoints.licences import accept_licence
from cxr_assistant.checkpoints.lock import CONVERTER_VERSION, FileRecord, Lock
from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.models.precision import GIB, Device, Footprint, choose_fit
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task
from tests.doubles import ScriptedWorker, StoreDouble, make_film
from tests.loopback_hub import LoopbackHub, Repository, online

REVISION = "a" * 40
CHEXAGENT, LLAVA_RAD = get_checkpoint("chexagent"), get_checkpoint("llava-rad")


@dataclass
class Scene:
    """A hub with an open and a gated repository, folders, and a desk with every model of the menu."""

    server: LoopbackHub
    folder: Path

    def hub(self, token: str | None = None) -> Hub:
        return Hub(self.server.endpoint, self.folder / "hub", token=token, is_offline=False)

    def converted(self, name: str = "chexagent") -> Path:
        """A folder whose lock promises a file that is not there."""
        target = self.folder / "converted"
        target.mkdir()
        Lock(
            checkpoint=name,
            repository=CHEXAGENT.repository,
            revision=CHEXAGENT.revision,
            precision="fp32",
            converter_version=CONVERTER_VERSION,
            image_effect=1.0,
            files={"model.safetensors": FileRecord(10, "0" * 64)},
        ).write(target)
        return target

    def ask(self, checkpoint: str, task: Task, *films: Radiograph) -> None:
        desk = Assistant(ScriptedWorker(), store=StoreDouble())
        list(desk.respond(Study(films), Conversation().ask("The tube"), task, checkpoint=checkpoint))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    accept_licence(CHEXAGENT)
    repositories = [
        Repository("lab/open", REVISION, {"config.json": b"{}"}),
        Repository("lab/gated", REVISION, {"config.json": b"{}"}, is_gated=True),
        Repository(CHEXAGENT.repository, CHEXAGENT.revision, {"config.json": b"{}"}),
    ]
    with online(monkeypatch), LoopbackHub(repositories) as server:
        yield Scene(server, tmp_path)


def no_disk(scene: Scene) -> None:
    plan = weights.FetchPlan((), 10**15, 10**15, {scene.folder: 2 * 10**15})
    plan.require_disk()


def no_memory(_: Scene) -> None:
    choose_fit(Footprint.estimate(7_000_000_000), Device("cuda", "a small GPU", 2 * GIB, 4 * GIB, (7, 5)))


def too_many(_: Scene) -> None:
    films = Study(tuple(make_film(k) for k in (1, 2, 3)))
    chexagent._films(CHEXAGENT, films, Task.FINDINGS)


Provoke = Callable[[Scene], object]

# what was wrong and what was found, what is allowed ("" where nothing else could be), what to do next
ERRORS: dict[str, tuple[Provoke, str, str, str, str]] = {
    "wrong-directory": (
        lambda s: weights.locate(CHEXAGENT, s.folder / "absent"),
        "missing_weights",
        r"The folder given for CheXagent does not exist\.",
        "",
        "Check the path",
    ),
    "directory-without-files": (
        lambda s: weights.convert_local(CHEXAGENT, s.folder / "config" / "absent", s.folder / "target"),
        "missing_weights",
        r"The folder given for CheXagent holds no files of it\.",
        "",
        "Name the folder that holds the files of StanfordAIMI/CheXagent-2-3b",
    ),
    "directory-without-the-embedded-model": (
        lambda s: weights.locate(get_checkpoint("embedded"), s.folder),
        "missing_weights",
        r"The folder given for Embedded phantom model holds no model\.safetensors",
        "",
        "Name a folder that `train` wrote",
    ),
    "directory-of-another-model": (
        lambda s: weights.locate(CHEXAGENT, s.converted("cxr-llava")),
        "weights_mismatch",
        "The folder holds 'cxr-llava'",
        "asked for: 'chexagent'",
        "Name another folder",
    ),
    "missing-file": (
        lambda s: weights.locate(CHEXAGENT, s.converted()),
        "missing_weights",
        r"model\.safetensors is missing from a converted checkpoint",
        "",
        "Fetch it again",
    ),
    "missing-file-at-the-hub": (
        lambda s: weights.plan_fetch(CHEXAGENT, s.folder, hub=s.hub()),
        "missing_weights",
        r"StanfordAIMI/CheXagent-2-3b misses generation_config\.json at the pinned revision",
        "",
        "a mirror must serve the whole repository",
    ),
    "never-fetched": (
        lambda s: weights.locate(CHEXAGENT, weights_dir=s.folder),
        "missing_weights",
        "CheXagent is not on this computer yet",
        "",
        "checkpoints fetch chexagent",
    ),
    "wrong-revision": (
        lambda s: s.hub().list_files("lab/open", "f" * 40),
        "revision",
        f"lab/open has no revision {'f' * 40}",
        "",
        "/lab/open/commits/main",
    ),
    "unpinned-revision": (
        lambda s: s.hub().list_files("lab/open", "main"),
        "unpinned",
        "The revision of lab/open is 'main'",
        "allowed: a commit hash of 40 hexadecimal digits",
        "Copy the full hash",
    ),
    "no-network": (
        lambda s: Hub("http://127.0.0.1:9", s.folder, None, False).list_files("lab/open", REVISION),
        "no_network",
        r"The connection to http://127\.0\.0\.1:9 failed",
        "",
        "Check the network and HF_ENDPOINT",
    ),
    "offline": (
        lambda s: Hub("http://127.0.0.1:9", s.folder, None, True).list_files("lab/open", REVISION),
        "offline",
        "lab/open is not on this computer",
        "HF_HUB_OFFLINE forbids",
        "Unset HF_HUB_OFFLINE",
    ),
    "gated-401": (
        lambda s: s.hub().list_files("lab/gated", REVISION),
        "gated",
        "lab/gated is gated",
        "",
        "/lab/gated, sign in and click 'Agree and access repository'",
    ),
    "gated-403": (
        lambda s: s.hub("hf_reader").list_files("lab/gated", REVISION),
        "gated",
        "lab/gated is gated",
        "",
        "click 'Agree and access repository'; then make a read token",
    ),
    "not-found": (
        lambda s: s.hub("hf_reader").list_files("lab/absent", REVISION),
        "repository",
        "lab/absent was not found, or is private",
        "",
        "set HF_TOKEN to a read token of yours",
    ),
    "no-disk": (
        no_disk,
        "disk",
        r"2000000\.0 GB are needed for download and conversion",
        r"[\d.]+ GB are free",
        "Free some space, or set CXR_WEIGHTS_DIR and HF_HOME",
    ),
    "no-memory": (
        no_memory,
        "out_of_memory",
        "This model does not fit the memory of a small GPU",
        r"fp16 needs 14\.5 GiB of 2\.0 GiB free; .*nf4 needs",
        "choose a lower precision, or a smaller model",
    ),
    "precision-that-the-cpu-lacks": (
        lambda _: choose_fit(Footprint.estimate(7), Device("cpu", "CPU", GIB, GIB), "fp16"),
        "settings",
        r"fp16 is not offered on CPU\.",
        "",
        "Half precision on the CPU is bf16",
    ),
    "unknown-checkpoint": (
        lambda s: s.ask("llava_rad", Task.FINDINGS, make_film()),
        "unknown_checkpoint",
        "Unknown checkpoint 'llava_rad'",
        "available: chexagent, chexagent-srrg-findings, cxr-llava, embedded, llava-rad",
        "Choose one of these",
    ),
    "checkpoint-without-a-known-commit": (
        lambda s: s.ask("chexagent-srrg-impression", Task.IMPRESSION, make_film()),
        "unknown_checkpoint",
        "Unknown checkpoint 'chexagent-srrg-impression'",
        "available: chexagent, chexagent-srrg-findings, cxr-llava, embedded, llava-rad",
        "No commit of StanfordAIMI/CheXagent-2-3b-srrg-impression is known here.*"
        "set CXR_PINS=chexagent-srrg-impression=COMMIT",
    ),
    "unsupported-task": (
        lambda s: s.ask("llava-rad", Task.GROUNDING, make_film()),
        "unsupported_task",
        "LLaVA-Rad was not trained to locate a phrase",
        "its tasks: findings",
        r"Choose CheXagent \(chexagent\) to locate a phrase",
    ),
    "too-many-images": (
        too_many,
        "invalid_study",
        "the study holds 3",
        "CheXagent reads at most 2 films at once",
        "Remove a film, or ask about one of them",
    ),
    "lateral-for-a-frontal-model": (
        lambda s: s.ask("llava-rad", Task.FINDINGS, make_film(1, ViewPosition.LATERAL)),
        "missing_radiograph",
        "this study holds lateral ones only",
        "LLaVA-Rad reads frontal radiographs",
        "Add the PA or AP radiograph",
    ),
    "terms-not-accepted": (
        lambda s: weights.locate(LLAVA_RAD),
        "licence",
        "LLaVA-Rad is under the Microsoft Research License",
        "Non-commercial research only",
        "--accept-licence llava-rad",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_says_what_was_wrong_what_is_allowed_and_what_to_do(scene: Scene, case: str) -> None:
    provoke, code, found, allowed, hint = ERRORS[case]
    with pytest.raises(CxrAssistantError, match=found) as caught:
        provoke(scene)
    assert caught.value.code == code
    assert caught.match(allowed)
    assert re.search(hint, caught.value.hint)
    assert str(scene.folder) not in str(caught.value)  # no path of this computer
