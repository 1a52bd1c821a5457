"""The command line as people and scripts meet it: results on stdout, sentences on stderr, stable keys."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cxr_assistant.loading
from cxr_assistant.assistant import Assistant
from cxr_assistant.checkpoints.progress import OnProgress, Progress, Stage
from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording
from cxr_assistant.cli import main
from cxr_assistant.errors import ForeignImage
from cxr_assistant.imaging.rendering import encode_png
from cxr_assistant.settings import PRECISIONS, PROJECT_ROOT
from cxr_assistant.tasks import Task
from tests.doubles import ScriptedWorker, make_checkpoint

EMBEDDED = make_checkpoint()
LOCATING = TaskWording(prompt="Locate {text}.", hint="The phrase to locate.", needs_text=True)
MENU = (
    EMBEDDED,
    make_checkpoint(
        "llava",
        tasks={**EMBEDDED.tasks, Task.VIEW: TaskWording(prompt="View?"), Task.GROUNDING: LOCATING},
    ),
)
ANSWER_KEYS = {
    "checkpoint",
    "revision",
    "precision",
    "text",
    "notices",
    "groundings",
    "finish_reason",
    "usage",
}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> ScriptedWorker:
    worker = ScriptedWorker()

    def load(checkpoint: str | None = None, **_: Any) -> Assistant:
        return Assistant(worker, checkpoint=checkpoint or "embedded", menu=MENU)

    monkeypatch.setattr(cxr_assistant.loading, "load", load)
    return worker


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., str]:
    def write(name: str = "film.png", shade: int = 0) -> str:
        rows = np.linspace(shade, 255, 64, dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(np.add.outer(rows // 2, rows // 2)))
        return str(path)

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_report_is_the_answer_on_stdout_and_who_spoke_on_stderr(run, worker, film) -> None:
    code, out, err = run("report", film())
    assert (code, out) == (0, "The lungs are clear. \n")
    assert "[embedded 000000000000, 4 tokens, 0.0 s, stop]" in err


def test_a_report_in_json_has_the_documented_keys(run, worker, film) -> None:
    code, out, _ = run("report", film(), "--json")
    (line,) = objects(out)
    assert code == 0
    assert set(line) == {"status", "films", "key", "task", *ANSWER_KEYS}
    assert set(line["usage"]) == {
        "prompt_tokens",
        "reused_tokens",
        "completion_tokens",
        "time_to_first_token_s",
        "total_s",
    }


def test_a_folder_is_one_study_per_film_whatever_its_name(run, worker, film, tmp_path: Path) -> None:
    film("a/one.png", 1)
    film("a/b/extensionless", 2)
    film("a/.hidden", 3)
    code, out, _ = run("report", tmp_path / "a", "--json")
    names = [Path(line["films"][0]).name for line in objects(out)]
    assert (code, names) == (0, ["one.png", "extensionless"])


def test_a_batch_goes_on_after_a_file_that_is_no_film(run, worker, film, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.dcm"
    wrong.write_text("Dear colleague,")
    code, out, err = run("report", wrong, film(), "--json")
    assert code == 2
    assert [line["status"] for line in objects(out)] == ["error", "ok"]
    assert set(objects(out)[0]["error"]) == {"code", "message", "hint"}
    assert "1 reported, 0 already there, 1 failed" in err
    assert "Traceback" not in err


def test_a_batch_is_taken_up_where_it_was_left(run, worker, film, tmp_path: Path) -> None:
    out_file = tmp_path / "reports.jsonl"
    run("report", film("one.png", 1), "--out", out_file)
    with out_file.open("a") as sink:
        sink.write('{"status": "o')  # the run was cut off here
    code, _, err = run("report", film("one.png", 1), film("two.png", 2), "--out", out_file)
    assert code == 0
    assert len(worker.requests) == 2
    assert "1 reported, 1 already there, 0 failed" in err
    assert json.loads(out_file.read_text().splitlines()[-1])["status"] == "ok"


def test_another_model_is_another_answer_and_not_skipped(run, worker, film, tmp_path: Path) -> None:
    out_file = tmp_path / "reports.jsonl"
    for checkpoint in ("embedded", "llava"):
        run("report", film(), "--out", out_file, "--checkpoint", checkpoint)
    assert [json.loads(line)["checkpoint"] for line in out_file.read_text().splitlines()] == [
        "embedded",
        "llava",
    ]


def test_another_precision_is_another_answer_and_not_skipped(run, worker, film, tmp_path: Path) -> None:
    for precision in ("fp32", "int8", "int8"):
        run("report", film(), "--out", tmp_path / "reports.jsonl", "--precision", precision)
    assert len(worker.requests) == 2


def test_films_together_are_one_study(run, worker, film) -> None:
    code, out, err = run("report", film("a.png", 1), film("b.png", 2), "--together", "--json")
    assert (code, len(objects(out))) == (0, 1)
    assert "this is about film 2 of 2, the newest" in err


def test_questions_follow_each_other_in_one_conversation(run, worker, film) -> None:
    code, out, _ = run("ask", "Is there an effusion?", film(), "--then", "Which side?", "--json")
    assert code == 0
    assert [line["question"] for line in objects(out)] == ["Is there an effusion?", "Which side?"]
    assert set(objects(out)[0]) == {"status", "task", "question", *ANSWER_KEYS}
    assert len(worker.requests[1].conversation.turns) == 3


def test_a_batch_that_would_need_words_says_how_to_give_them(run, worker, film) -> None:
    name = film()
    code, _, err = run("report", name, "--task", "grounding", "--checkpoint", "llava")
    assert (code, worker.requests) == (2, [])
    assert "to locate a phrase, Llava needs words of yours." in err
    assert f'Use `ask "WORDS" {name} --task grounding`. Write them: the phrase to locate.' in err


def test_the_folder_of_a_model_is_prepared_before_it_is_asked(
    run, worker, film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locate(checkpoint: Checkpoint, directory: Path, *, on_progress: OnProgress, **_: Any) -> None:
        assert (checkpoint.name, directory) == ("chexagent", tmp_path)
        for stage in (Stage.VERIFYING, Stage.CONVERTING):
            on_progress(Progress(stage=stage))

    monkeypatch.setattr("cxr_assistant.checkpoints.weights.locate", locate)
    monkeypatch.setitem(globals(), "MENU", (make_checkpoint("chexagent"),))
    code, _, err = run("report", film(), "--checkpoint", "chexagent", "--weights", tmp_path)
    assert (code, err.count("CheXagent: its published files are converted, once.")) == (0, 1)


def test_a_real_film_is_refused_in_one_sentence(run, worker, film) -> None:
    worker.script = lambda _: ForeignImage("far")
    code, out, err = run("ask", "Is there an effusion?", film())
    assert (code, out) == (2, "")
    assert "this film is none" in err and "Choose Llava (llava)" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ask", "What?", "nowhere.png"), "nowhere.png: There is no such file."),
        (("report", "nowhere.png", "--task", "diagnose"), "Unknown task 'diagnose'; allowed: findings"),
        (("report", "nowhere.png", "--temperature", "9"), "temperature is 9.0; allowed: 0 to 2."),
        (("inspect", "nowhere.png"), "nowhere.png: There is no such file."),
        (("inspect", "a.png", "b.png", "--png", "c.png"), "--png writes one film; 2 files were given."),
        (("report", "nowhere.png", "--out", "."), "The file given with --out cannot be written."),
        (("phantom", "--finding", "flu"), "Unknown finding 'flu'; allowed: none, pleural-effusion"),
        (("phantom", "--finding", "nodule:left:right"), "'right' says nothing more about a finding"),
        (
            ("phantom", "--finding", "none", "--finding", "nodule"),
            "--finding none stands for a chest without findings; others were given as well.",
        ),
        (("phantom", "--view", "oblique"), "The view is 'oblique'; allowed: PA, AP, LATERAL."),
        (("train", "--out", "m", "--processes", "0"), "--processes is 0; allowed: 1 or more."),
        (("serve", "--port", "99999"), "CXR_PORT is '99999'; allowed: a whole number from 0 to 65535."),
        (("checkpoints", "fetch", "llava_rad"), "Unknown checkpoint 'llava_rad'; available:"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_used_is_one_sentence_and_exit_code_2(run, worker, arguments, sentence) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1 or arguments[0] == "report"


def test_an_error_in_json_is_an_object_too(run, worker) -> None:
    code, out, _ = run("ask", "What?", "nowhere.png", "--json")
    (line,) = objects(out)
    assert (code, line["status"], line["error"]["code"]) == (2, "error", "no_file")


def test_a_defect_of_ours_shows_no_traceback(run, worker, film, monkeypatch) -> None:
    monkeypatch.delenv("CXR_DEBUG", raising=False)
    worker.script = lambda _: ZeroDivisionError()
    code, _, err = run("ask", "What?", film())
    assert code == 1
    assert "ZeroDivisionError" in err and "Traceback" not in err


def test_inspect_shows_the_facts_of_a_film_and_nothing_of_the_patient(run, film) -> None:
    code, out, _ = run("inspect", film(), "--json")
    (line,) = objects(out)
    assert (code, line["status"], line["width"], line["height"]) == (0, "ok", 64, 64)
    assert {"patient_hash", "day_offset"}.isdisjoint(line)


def test_inspect_says_where_it_cannot_write(run, film, tmp_path: Path) -> None:
    code, _, err = run("inspect", film(), "--png", tmp_path)
    assert (code, err) == (2, "The file given with --png cannot be written. Choose another.\n")


def test_inspect_writes_the_film_as_people_see_it(run, film, tmp_path: Path) -> None:
    code, out, _ = run("inspect", film(), "--png", tmp_path / "seen.png")
    assert code == 0
    assert "bits stored" in out
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["x.dcm", "x.png"])
def test_a_phantom_is_written_and_can_be_read_again(run, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    wish = ("--finding", "pleural-effusion:left:large", "--view", "PA", "--seed", "5", "--size", "128")
    code, out, _ = run("phantom", *wish, "--out", target, "--json")
    (truth,) = objects(out)
    assert code == 0
    assert set(truth) == {"status", "out", "seed", "view", "findings", "report", "questions"}
    assert [(f["kind"], f["side"], f["severity"]) for f in truth["findings"]] == [
        ("pleural-effusion", "left", "large")
    ]
    assert objects(run("inspect", target, "--json")[1])[0]["height"] == 128


def test_a_phantom_without_findings_says_so(run) -> None:
    assert "no finding" in run("phantom", "--finding", "none", "--size", "64")[1]


def test_the_list_of_checkpoints_names_licence_and_readiness(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "model.safetensors").touch()
    code, out, _ = run("checkpoints", "list", "--json")
    cards = {card["name"]: card for card in objects(out)}
    assert code == 0
    assert [name for name, card in cards.items() if card["is_ready"]] == ["embedded"]
    assert all(card["licence"] and card["terms"] for card in cards.values())


def test_listing_checkpoints_is_instant_and_imports_no_torch() -> None:
    code = (
        "import sys; from cxr_assistant.cli import main; main(['checkpoints']);"
        "sys.exit(bool({'torch', 'transformers', 'gradio', 'pydicom'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, which a busy machine does not stretch: 0.35 s measured, an import of torch takes 2 s.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_terminal_escapes_in_generated_text_are_not_obeyed(run, worker, film) -> None:
    from tests.doubles import speak

    worker.script = speak("clear\x1b[2J")
    assert "\x1b" not in run("report", film())[1]


def test_help_lists_every_command() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0


def test_the_whole_way_runs_on_random_weights(run, film, tmp_path: Path) -> None:
    from cxr_assistant.checkpoints.embedded import make_random

    make_random(tmp_path / "weights")
    code, out, err = run(
        "report", film(), "--weights", tmp_path / "weights", "--max-new-tokens", "4", "--json"
    )
    assert code == 0, err
    (line,) = objects(out)
    assert (line["checkpoint"], line["finish_reason"]) == ("embedded", "length")
    assert line["usage"]["completion_tokens"] == 4


def test_serve_opens_the_app_with_what_was_given(run, worker, monkeypatch) -> None:
    import cxr_assistant.ui.app

    opened = []

    def launch(_: Any, settings: Any, *, announce: Callable[[str], None]) -> None:
        opened.append(settings)
        announce("http://127.0.0.1:8123")

    monkeypatch.setattr(cxr_assistant.ui.app, "build_app", lambda assistant, settings: assistant)
    monkeypatch.setattr(cxr_assistant.ui.app, "launch", launch)
    code, out, _ = run("serve", "--port", "8123", "--checkpoint", "llava", "--json")
    assert code == 0
    assert [(s.port, s.checkpoint) for s in opened] == [(8123, "llava")]
    assert objects(out) == [{"status": "listening", "url": "http://127.0.0.1:8123"}]
    assert worker.is_closed
    assert run("serve")[1] == "CXR Assistant listens on http://127.0.0.1:8123\n"


def test_a_user_is_added_with_the_password_that_is_piped_in(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long enough password\n"))
    code, out, _ = run("user", "add", "ann", "--file", tmp_path / "users", "--json")
    assert (code, objects(out)) == (0, [{"status": "ok", "user": "ann"}])
    assert (tmp_path / "users").is_file()


def test_train_hands_its_recipe_on(run, tmp_path: Path, monkeypatch) -> None:
    import cxr_assistant.training.train as training

    trained = []
    monkeypatch.setattr(training, "train", lambda *given: trained.append(given))
    code, out, _ = run("train", "--out", tmp_path / "m", "--micro", "--seed", "7", "--json")
    ((recipe, output, work, _, processes),) = trained
    assert (code, objects(out)[0]["seed"], recipe.seed) == (0, 7, 7)
    assert recipe.phantoms == training.MICRO.phantoms
    assert (output, work, processes) == (tmp_path / "m", tmp_path / "m.work", None)


def test_train_hands_a_guide_on(run, tmp_path: Path, monkeypatch) -> None:
    import cxr_assistant.training.train as training

    trained = []
    monkeypatch.setattr(training, "train_plain", lambda *given: trained.append(given))
    guide = PROJECT_ROOT / "weights" / "embedded"
    options = ("train", "--out", tmp_path / "m", "--work", tmp_path / "w", "--micro", "--json")
    code, _, _ = run(*options, "--guide", guide)
    ((folder, recipe, output, work, _, processes),) = trained
    assert (code, recipe, folder) == (0, training.MICRO_PLAIN, guide)
    assert (output, work, processes) == (tmp_path / "m", tmp_path / "w", None)
    code, _, error = run(*options, "--guide", tmp_path)
    assert (code, "There is no finished model in" in error) == (2, True)


def test_what_each_precision_needs_is_listed_against_what_is_free(run, monkeypatch) -> None:
    monkeypatch.setenv("CXR_DEVICE", "cpu")
    code, out, _ = run("checkpoints", "fits", "llava-rad", "--json")
    lines = objects(out)
    assert code == 0
    assert [line["precision"] for line in lines] == list(PRECISIONS[1:])
    assert all(line["needed_bytes"] > 0 and line["free_bytes"] > 0 for line in lines)


def test_a_precision_reaches_the_assistant_and_an_unknown_one_is_refused(run, film, monkeypatch) -> None:
    given: list[Any] = []

    def load(**options: Any) -> Assistant:
        given.append(options["precision"])
        return Assistant(ScriptedWorker(), menu=MENU)

    monkeypatch.setattr(cxr_assistant.loading, "load", load)
    assert run("report", film(), "--precision", "nf4")[0] == 0
    assert given == ["nf4"]
    with pytest.raises(SystemExit):
        main(["report", film(), "--precision", "fp8"])


def test_a_prior_is_compared_with(run, film, monkeypatch) -> None:
    worker = ScriptedWorker()
    comparing = make_checkpoint(
        "chex",
        max_images=2,
        supports_prior=True,
        tasks={Task.PROGRESSION: TaskWording(prompt="Follow {text}.", needs_text=True, needs_prior=True)},
    )
    monkeypatch.setattr(
        cxr_assistant.loading, "load", lambda **_: Assistant(worker, checkpoint="chex", menu=(comparing,))
    )
    new, old = film("new.png", 10), film("old.png", 20)
    assert run("ask", "edema", new, "--prior", old, "--task", "progression", "--checkpoint", "chex")[0] == 0
    (request,) = worker.requests
    assert request.conversation.last_question == "Follow edema."
    assert request.study.prior is not None


def test_terms_come_before_the_network(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    code, _, err = run("checkpoints", "fetch", "llava-rad", "--into", tmp_path)
    assert code == 2
    assert "non-commercial research only" in err.lower() and "--accept-licence llava-rad" in err
