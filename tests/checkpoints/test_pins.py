"""A model none of whose commits is known is served where the owner names one, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import PROJECT_ROOT

COMMIT = "c" * 40
NAME = "chexagent-srrg-impression"


def listing(pins: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: the menu is read once.
    return subprocess.run(
        [sys.executable, "-m", "cxr_assistant", "checkpoints", "list", "--json"],
        env={**os.environ, "CXR_PINS": pins},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_impression_model_is_on_the_menu_at_the_commit_that_its_owner_pins() -> None:
    cards = {card["name"]: card for card in map(json.loads, listing(f"{NAME}={COMMIT}").stdout.splitlines())}
    assert (cards[NAME]["revision"], cards[NAME]["tasks"]) == (COMMIT, ["impression"])


def test_it_is_not_on_the_menu_otherwise() -> None:
    assert NAME not in listing("").stdout


def test_a_pin_of_no_model_is_refused() -> None:
    found = listing(f"chexagent-srg-impression={COMMIT}")
    assert found.returncode == 2
    assert "CXR_PINS pins 'chexagent-srg-impression', and there is no such checkpoint." in found.stderr
