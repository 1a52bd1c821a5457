"""What comes from others is pinned and checked; what the code may do is read off the code itself."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cxr_assistant.settings import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "cxr_assistant"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))

# The lowest versions in which known holes are closed: Gradio (GHSA-j36p-7w88-g82j), pydicom (CVE-2026-32711),
# torch (CVE-2026-24747), transformers (CVE-2026-4372, -5241), Pillow (ten advisories of 12.2).
FLOORS = {"gradio": "6.16", "pydicom": "3.0.2", "pillow": "12.3.0", "torch": "2.10", "transformers": "5.3"}


def locked() -> dict[str, tuple[str, list[str]]]:
    """name -> (version, hashes) of requirements.lock."""
    text = (PROJECT_ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", " ")
    rows = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)(?: ;[^-]*)?((?: +--hash=\S+)*)", text, re.MULTILINE)
    return {
        _name(name): (version, re.findall(r"sha256:([0-9a-f]{64})", rest)) for name, version, rest in rows
    }


def _name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


def pinned() -> dict[str, str]:
    lines = (PROJECT_ROOT / "constraints.txt").read_text("utf-8").splitlines()
    rows = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {_name(name): version for name, version in rows}


@pytest.mark.requirement("A7")
def test_every_locked_file_has_a_hash() -> None:
    assert len(locked()) > 40
    assert [name for name, (_, hashes) in locked().items() if not hashes] == []


@pytest.mark.requirement("A7")
def test_the_lock_holds_the_tested_set() -> None:
    tested = pinned()
    wrong = {n: v for n, (v, _) in locked().items() if v.partition("+")[0] != tested.get(n)}
    assert wrong == {}, "run: .ci/lock"


@pytest.mark.requirement("A7")
def test_every_requirement_is_locked() -> None:
    text = (PROJECT_ROOT / "requirements.txt").read_text("utf-8")
    names = {_name(name) for name in re.findall(r"^([A-Za-z0-9_.-]+)[><=]", text, re.MULTILINE)}
    assert names <= set(locked()), "run: .ci/lock"


@pytest.mark.requirement("A7", "W4")
@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_no_locked_version_is_below_its_floor(package: str, floor: str) -> None:
    assert _version(locked()[package][0]) >= _version(floor)


@pytest.mark.requirement("A7")
@pytest.mark.parametrize("package", ["pylibjpeg-libjpeg", "torchvision", "kernels"])
def test_what_must_not_be_there_is_not_locked(package: str) -> None:
    assert package not in locked()


@pytest.mark.requirement("A7")
def test_the_audit_is_strict_reads_the_lock_and_says_when_it_asked_nobody() -> None:
    script = (PROJECT_ROOT / ".ci" / "audit").read_text("utf-8")
    assert re.search(r"pip-audit. --strict", script) and "requirements.lock" in script
    assert script.count("audit skipped:") == 2
    assert subprocess.run(["bash", "-n", PROJECT_ROOT / ".ci" / "audit"], check=False).returncode == 0


@pytest.mark.requirement("A7")
def test_the_bill_of_materials_names_every_locked_package() -> None:
    written = subprocess.run([sys.executable, PROJECT_ROOT / ".ci" / "sbom"], capture_output=True, check=True)
    bill = json.loads(written.stdout)
    assert bill["bomFormat"] == "CycloneDX"
    named = {
        _name(part["name"]): (part["version"], [h["content"] for h in part["hashes"]])
        for part in bill["components"]
    }
    assert named == locked()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"))


@pytest.mark.requirement("W4")
def test_torch_load_reads_weights_only_wherever_it_is_called() -> None:
    found = {}
    for path, tree in trees():
        for name, call in calls(tree):
            if name == "torch.load":
                options = {k.arg: ast.unparse(k.value) for k in call.keywords}
                found[path] = options.get("weights_only")
    # Published pickles in the converter's process; what a run of one's own (training, make-random) has saved.
    assert set(found) <= {
        "checkpoints/convert.py",
        "checkpoints/random_weights.py",
        "training/stage_plain.py",
        "training/stage_tower.py",
    }
    assert set(found.values()) == {"True"}


@pytest.mark.requirement("W4", "W3", "O5")
@pytest.mark.parametrize(
    "forbidden",
    ["eval", "exec", "compile", "pickle.load", "pickle.loads", "os.system", "os.popen", "__import__"],
)
def test_nothing_is_evaluated_unpickled_or_sent_to_a_shell(forbidden: str) -> None:
    assert [path for path, tree in trees() for name, _ in calls(tree) if name == forbidden] == []


@pytest.mark.requirement("W3")
def test_remote_code_is_never_trusted() -> None:
    trusted = [
        path
        for path, tree in trees()
        for _, call in calls(tree)
        for keyword in call.keywords
        if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
    ]
    assert trusted == []


@pytest.mark.requirement("O5")
@pytest.mark.parametrize("room", ["models", "engine", "evidence"])
def test_rooms_that_hold_a_model_can_reach_neither_network_nor_shell(room: str) -> None:
    forbidden = {
        "socket",
        "urllib",
        "http",
        "requests",
        "httpx",
        "huggingface_hub",
        "subprocess",
        "webbrowser",
    }
    found = {
        (path, name)
        for path, tree in trees()
        if path.startswith(f"{room}/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in forbidden
    }
    assert found == set()


@pytest.mark.requirement("P5")
def test_a_log_line_is_a_fixed_sentence_with_classes_numbers_and_codes() -> None:
    """The text is a literal, and what is filled in is no exception, no name and nothing that was said."""
    allowed = re.compile(r"__name__|code|seconds|count|num_|status|kind|number|pid|reason|_s\b|len\(")
    wrong = []
    for path, tree in trees():
        for name, call in calls(tree):
            if not re.fullmatch(
                r"(_?log|_?logger|logging)\.(debug|info|warning|error|exception|critical)", name
            ):
                continue
            text, *filled = call.args
            is_literal = isinstance(text, ast.Constant) and name.rpartition(".")[2] != "exception"
            if not is_literal or not all(allowed.search(ast.unparse(value)) for value in filled):
                wrong.append(f"{path}: {ast.unparse(call)}")
    assert wrong == []


@pytest.mark.requirement("U4")
def test_pillow_is_only_asked_for_formats_that_were_recognised() -> None:
    found = [
        (path, {k.arg for k in call.keywords})
        for path, tree in trees()
        for name, call in calls(tree)
        if name == "Image.open"
    ]
    assert found and all("formats" in options for _, options in found)
    assert {path.split("/")[0] for path, _ in found} == {"imaging"}


@pytest.mark.requirement("P2")
def test_no_dicom_is_ever_written_but_that_of_a_phantom() -> None:
    writers = {
        path for path, tree in trees() for name, _ in calls(tree) if name.endswith((".save_as", "dcmwrite"))
    }
    assert writers <= {"imaging/phantom/export.py"}
