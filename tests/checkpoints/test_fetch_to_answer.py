"""From the Hub to an answer at the front desk and the command line: the three families, every task."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from cxr_assistant.assistant import Assistant
from cxr_assistant.checkpoints.progress import Progress, Stage, ignore_progress
from cxr_assistant.cli.main import main
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import DownloadFailed, LicenceNotAccepted
from cxr_assistant.generation import SamplingParams, collect
from cxr_assistant.imaging.rendering import encode_png
from cxr_assistant.loading import load
from cxr_assistant.models.precision import GIB, Device
from cxr_assistant.settings import Settings, read_settings
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task
from tests.loopback_hub import LoopbackHub, online, published

NAMES = ("chexagent", "cxr-llava", "llava-rad")
ORDER = (Stage.DOWNLOADING, Stage.VERIFYING, Stage.CONVERTING, Stage.TESTING, Stage.READY)
BRIEF = SamplingParams(max_new_tokens=3)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (96, 80), dtype=np.uint8)


FILM = Radiograph(pixels(1), bits_stored=8, view=ViewPosition.PA)


@dataclass
class Place:
    """A machine of its own: the environment, what was fetched on it, and what was said meanwhile."""

    root: Path
    server: LoopbackHub
    progress: dict[str, list[Progress]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        settings = read_settings({"CXR_WEIGHTS_DIR": str(self.root / "weights"), "CXR_DEVICE": "cpu"})
        return replace(settings, threads=1)

    def desk(self) -> Assistant:
        return load(settings=self.settings, worker="inline")

    def film(self, seed: int) -> str:
        path = self.root / f"film-{seed}.png"
        path.write_bytes(encode_png(pixels(seed)))
        return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("machine")
    repositories = [repository for name in NAMES for repository in published(name)]
    with pytest.MonkeyPatch.context() as patch, online(patch), LoopbackHub(repositories) as server:
        for name, value in {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(root / "hf"),
            "HF_HUB_OFFLINE": "0",
            "XDG_CONFIG_HOME": str(root / "config"),
            "CXR_WEIGHTS_DIR": str(root / "weights"),
            "CXR_DEVICE": "cpu",
        }.items():
            patch.setenv(name, value)
        patch.delenv("HF_TOKEN", raising=False)
        # The fixtures are tiny, but declared as what they stand for: let the device hold that.
        roomy = Device("cpu", "CPU", 64 * GIB, 64 * GIB)
        patch.setattr("cxr_assistant.models.precision.read_device", lambda _: roomy)
        yield Place(root, server)


@pytest.fixture(params=NAMES, scope="module")
def name(request: pytest.FixtureRequest, place: Place) -> str:
    """A checkpoint that was fetched at the front desk, its terms accepted."""
    fetched: str = request.param
    fetch(place, fetched)
    return fetched


def fetch(place: Place, name: str) -> None:
    if name not in place.progress:
        desk, said = place.desk(), place.progress.setdefault(name, [])
        desk.accept_licence(name)
        desk.fetch(name, said.append)


def test_terms_come_before_everything(place: Place) -> None:
    desk = place.desk()
    with pytest.raises(LicenceNotAccepted):
        desk.fetch("chexagent-srrg-findings", ignore_progress)
    assert not desk.is_ready("chexagent-srrg-findings")


def test_a_fetched_model_answers_and_signs(place: Place, name: str) -> None:
    with place.desk() as desk:
        assert desk.is_ready(name)
        task = next(iter(desk.get_checkpoint(name).tasks))
        answer = collect(desk.respond(Study((FILM,)), Conversation(), task, BRIEF, checkpoint=name))
        assert answer.checkpoint == name and answer.precision == "bf16"
        assert answer.revision == desk.get_checkpoint(name).revision
        assert 1 <= answer.usage.completion_tokens <= 3


def test_progress_goes_through_its_stages_once(place: Place, name: str) -> None:
    readings = place.progress[name]
    stages = list(dict.fromkeys(reading.stage for reading in readings))
    assert stages == [stage for stage in ORDER if stage in stages]
    assert {Stage.DOWNLOADING, Stage.VERIFYING, Stage.CONVERTING, Stage.READY} <= set(stages)
    (total,) = {r.total_bytes for r in readings if r.stage is Stage.DOWNLOADING}
    done = [r.done_bytes for r in readings if r.stage is Stage.DOWNLOADING]
    assert done == sorted(done) and done[-1] == total > 0


def test_what_is_fetched_is_not_fetched_again(place: Place, name: str) -> None:
    place.server.sent.clear()
    readings: list[Progress] = []
    place.desk().fetch(name, readings.append)
    assert (place.server.sent.total(), readings) == (0, [])


def test_a_fetch_that_is_stopped_goes_on_later(place: Place, tmp_path: Path) -> None:
    settings = replace(place.settings, weights_dir=tmp_path)
    with load(settings=settings, worker="inline") as desk:
        desk.accept_licence("cxr-llava")
        with pytest.raises(DownloadFailed, match="stopped"):
            desk.fetch("cxr-llava", ignore_progress, lambda: True)
        assert not desk.is_ready("cxr-llava")
        assert not list(tmp_path.glob("cxr-llava*"))


def test_left_to_itself_the_desk_takes_a_fetched_model_for_its_task(place: Place) -> None:
    fetch(place, "cxr-llava")
    with place.desk() as desk:
        answer = collect(desk.respond(Study((FILM,)), Conversation(), Task.DIFFERENTIAL, BRIEF))
        assert answer.checkpoint == "cxr-llava"
        assert answer.notices[0].code == "model-chosen"


# -------------------------------------------------------------------- every task from the command line

F, G = "{film 1}", "{film 2}"
REQUESTS = {
    Task.FINDINGS: ("llava-rad", "report", F, "--indication", "cough"),
    Task.REPORT: ("cxr-llava", "report", F, "--task", "report"),
    Task.DIFFERENTIAL: ("cxr-llava", "report", F, "--task", "differential"),
    Task.QUESTION: ("chexagent", "ask", "Is there a nodule?", F),
    Task.VIEW: ("chexagent", "report", F, "--task", "view"),
    Task.SECTIONS: ("chexagent", "report", F, "--task", "sections"),
    Task.IMPRESSION: ("chexagent", "report", F, "--task", "impression"),
    Task.GROUNDING: ("chexagent", "ask", "the tube", F, "--task", "grounding"),
    Task.DETECTION: ("chexagent", "ask", "rib fractures", F, "--task", "detection"),
    Task.VIEW_MATCHING: ("chexagent", "report", F, G, "--together", "--task", "view-matching"),
    Task.PROGRESSION: ("chexagent", "ask", "pneumonia", F, "--prior", G, "--task", "progression"),
}


def test_every_task_has_its_request() -> None:
    assert set(REQUESTS) == set(Task)


@pytest.mark.parametrize("task", REQUESTS)
def test_a_task_is_reached_from_the_command_line(
    place: Place, task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, *words = REQUESTS[task]
    fetch(place, checkpoint)
    films = {F: place.film(1), G: place.film(2)}
    arguments = [films.get(word, word) for word in words]
    capsys.readouterr()
    code = main([*arguments, "--checkpoint", checkpoint, "--max-new-tokens", "2", "--json"])
    (line,) = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert (code, line["status"], line["task"], line["checkpoint"]) == (0, "ok", task.value, checkpoint)
    assert line["usage"]["completion_tokens"] >= 1
    assert not {notice["code"] for notice in line["notices"]} & {"outside-training", "unused-film"}


def test_the_command_line_fetches_and_says_where_it_lies(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    into = ["--into", str(tmp_path), "--accept-licence", "cxr-llava"]
    assert main(["checkpoints", "fetch", "cxr-llava", *into, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["status"] == "ok" and os.path.isfile(f"{done['directory']}/cxr.lock.json")
