"""The benchmark of loading, on small random weights: every step runs and leaves its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_assistant.checkpoints.random_sizes import TINY_SIZES
from cxr_assistant.checkpoints.random_weights import write_random_checkpoint
from cxr_assistant.checkpoints.spec import get_checkpoint
from tests.conftest import PROJECT_ROOT

pytestmark = pytest.mark.slow


def run(published: Path, out: Path, *options: str) -> dict[str, dict[str, object]]:
    script = PROJECT_ROOT / "benchmarks" / "loading.py"
    command = [sys.executable, str(script), "cxr-llava", str(published), str(out.parent / "work")]
    subprocess.run(
        [*command, "--out", str(out), "--num-tokens", "2", *options], capture_output=True, check=False
    )
    return json.loads(out.read_text("utf-8"))


def test_every_step_leaves_its_figures_and_keeps_those_of_others(tmp_path: Path) -> None:
    published, out = tmp_path / "published", tmp_path / "results.json"
    write_random_checkpoint(get_checkpoint("cxr-llava"), published, sizes=TINY_SIZES)
    first = run(published, out)
    assert {"conversion", "loading_as_stored", "reading", "hashing", "answer", "verdicts"} <= set(first)
    assert first["verdicts"]["conversion_holds_one_shard"]
    assert first["verdicts"]["loading_as_stored_needs_no_second_copy"]
    cast = run(published, out, "--steps", "load", "--precision", "fp32", "--rounds", "1")
    assert "loading" in cast and cast["verdicts"]["loading_needs_no_second_copy"]
    first = run(published, out, "--steps", "load", "--rounds", "1")
    assert "loading" not in first, "bf16 is what is stored: nothing is cast"
    second = run(published, out, "--steps", "precisions", "--only", "fp32", "nf4")
    assert second["conversion"] == first["conversion"]
    assert set(second["precisions"]) >= {"fp32", "nf4", "device"}
    assert second["verdicts"]["every_precision_that_fits_answers"]
