"""The table of security requirements: each with its tests and what they measured last.

`python benchmarks/requirements.py` runs the tests that hold a requirement (further arguments go to pytest,
such as `-m "requirement and slow"` or a path), remembers outcomes and figures in
results/requirements.json and writes docs/security-requirements.md. `--table` writes the table only.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "requirements.json"
TABLE = ROOT / "docs" / "security-requirements.md"

__all__ = ["REQUIREMENTS", "find_tests", "main", "table"]

# What each requirement says, in one sentence. U uploads, P privacy, O output and prompt injection, W weights
# and code, D availability, A access and operation.
REQUIREMENTS = {
    "U1": "Every hostile file gets its expected verdict: one line of at most 120 characters, a stable code.",
    "U2": "A file costs at most 5 s and, on the hostile corpus, 300 MB above the idle child.",
    "U3": "Limits on bytes, pixels, sides, inflation, elements, depth, items and scans, exact to one.",
    "U4": "Content decides, not the name; PNG, JPEG and DICOM only, each opened as nothing else.",
    "U5": "A codestream must agree with the header before it is decoded; one decoder per transfer syntax.",
    "U6": "Accepted pixels are the right ones: lossless exact, 16 bits kept, polarity and EXIF applied.",
    "U7": "A decoder that dies, hangs or panics is one sentence, and the next upload is read.",
    "U8": "Uploads lie under random names in a private directory; original bytes are never served again.",
    "U9": "Archives are refused.",
    "U10": "100,000 mutated files raise nothing but the project's own refusals.",
    "U11": "JPEG lossless, JPEG-LS and JPEG 2000 decode; web and engine processes import no decoder.",
    "U12": "CR, DX and RG are read, OT and secondary capture with a warning, all else is refused.",
    "P1": "The header whitelist is the list of fields of Radiograph; no free text leaves the decoder.",
    "P2": "No DICOM of a visitor is ever exported, so there is nothing to de-identify.",
    "P3": "Declared burned-in text is warned of, and a hint looks for text in the pixels.",
    "P4": "Marker strings in tags, names and pixels appear in no log, file, metric, prompt or other's page.",
    "P5": "Logs hold fixed sentences and classes of errors: no name, no chat, no text of an exception.",
    "P6": "Uploads are gone 60 s after a session, at shutdown, and at the start after a crash.",
    "P7": "Another session gets 404 for a file, a stream and a cancel; answers are not stored by caches.",
    "P8": "Run history, analytics, monitoring and sharing are off; nothing leaves the machine.",
    "O1": "No header text reaches a prompt; special tokens in a person's text change no template.",
    "O2": "Model text is cleaned on the server, however a payload is split: no tag, no link.",
    "O3": 'Radiology text survives: "SpO2 <90% & >5 cm" is shown unchanged.',
    "O4": "A content security policy forbids other hosts; a browser makes no external request.",
    "O5": "The model has no tools, no URLs and no files.",
    "O6": "Where a picture may hold text, the page says that it can sway the answer.",
    "W1": "Weights are pinned by commit and verified by SHA-256; a flipped byte or foreign file is refused.",
    "W2": "Only safetensors, JSON and tokenizer files are served.",
    "W3": "No remote code: configurations that ask for it are refused.",
    "W4": "Floors of torch and transformers; no pickle; torch.load in one place, weights only.",
    "W5": "The app starts and answers without a network.",
    "W6": "Prompts come from the project's own code or a locked file.",
    "W7": "Pickled weights are verified, read once in a process of their own, and written as safetensors.",
    "D1": "A bounded queue, limits per session and address; a refusal is a sentence within 200 ms.",
    "D2": "Caps on characters, tokens, turns and time, exact to one.",
    "D3": "Stop, a closed tab, time-out and expiry cancel while waiting, in prefill and in decode.",
    "D4": "A reader that stalls cannot hold the engine.",
    "D5": "Out of memory is a sentence, 100 times in a row; the next request is answered.",
    "D6": "A watchdog restarts an engine that says nothing; the web side stays up.",
    "D7": "A quota on the disk and time limits on slow clients.",
    "D8": "/healthz and /readyz tell the truth within 2 s and hold nothing of anybody.",
    "A1": "The onprem profile refuses to start without authentication unless bound to loopback.",
    "A2": "A random session cookie with strict attributes; foreign origins are refused.",
    "A3": "Every route is on a list; a route that Gradio adds fails a test.",
    "A4": "Secrets come from the environment or a file and appear nowhere else.",
    "A5": "The container runs as nobody, read-only, without privileges, within limits.",
    "A6": "The onprem audit log is chained, tells of tampering and holds no content.",
    "A7": "A lock file with hashes, floors, a strict audit and a bill of materials.",
    "A8": "Research use only: on every page and in every copied or exported answer.",
}


def find_tests(root: Path = ROOT) -> dict[str, list[str]]:
    """Node ids of the tests that name each requirement; an id that is no requirement raises KeyError."""
    found: dict[str, list[str]] = {name: [] for name in REQUIREMENTS}
    for path in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        everywhere = [name for node in tree.body for name in _marks_of_module(node)]
        for test in _test_functions(tree):
            named = [name for node in test.decorator_list for name in _marked(node)]
            for name in dict.fromkeys([*everywhere, *named]):
                found[name].append(f"{path.relative_to(root).as_posix()}::{test.name}")
    return found


def _test_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def _marks_of_module(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
        return _marked(node.value)
    return []


def _marked(node: ast.expr) -> list[str]:
    """The ids in `pytest.mark.requirement(...)`, alone or in a list of marks."""
    if isinstance(node, ast.List):
        return [name for element in node.elts for name in _marked(element)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.requirement":
        return [str(ast.literal_eval(argument)) for argument in node.args]
    return []


def table(tests: Mapping[str, Sequence[str]], results: Mapping[str, Any]) -> str:
    """The document: a row for each requirement and test."""
    lines = [
        "# Security requirements",
        "",
        "Each requirement, the tests that hold it, and what they found when they were last run. Made by",
        "`python benchmarks/requirements.py`; a requirement without a test fails `tests/trust`.",
        "",
        "| id | requirement | test | last run |",
        "|---|---|---|---|",
    ]
    for name, sentence in REQUIREMENTS.items():
        rows = [(test, _last_run(results.get(test))) for test in tests[name]] or [("none", "")]
        for number, (test, outcome) in enumerate(rows):
            head = (name, sentence) if number == 0 else ("", "")
            lines.append(f"| {head[0]} | {head[1]} | {_short(test)} | {outcome} |")
    return "\n".join(lines) + "\n"


def _short(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})" if name else test


def _last_run(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "not yet recorded"
    figures = [f"{name} {_round(value)} {unit}".rstrip() for name, (value, unit) in result["figures"].items()]
    return "; ".join([f"{result['outcome']} {result['date']}", *figures])


def _round(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    """Outcomes and figures of the tests that `arguments` select, as tests/figures.py writes them."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "pytest", "-q", *(arguments or ["-m", _DEFAULT])]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"CXR_FIGURES_FILE": str(target)}, check=False)
        found: dict[str, Any] = json.loads(target.read_text())
    return {test: {**result, "date": date.today().isoformat()} for test, result in found.items()}


_DEFAULT = "requirement and not slow and not gpu and not weights and not network"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="write the table from what is recorded")
    given, for_pytest = parser.parse_known_args(argv)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not given.table:
        results |= {name: r for name, r in _run(for_pytest).items() if r["outcome"] != "skipped"}
    tests = find_tests()
    known = {test for names in tests.values() for test in names}
    results = {name: results[name] for name in sorted(results) if name in known}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    TABLE.write_text(table(tests, results), "utf-8")
    return 1 if any(result["outcome"] == "failed" for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
