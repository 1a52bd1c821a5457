"""Real radiographs, and files that are none, through the page: what a person would drop into it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cxr_assistant.imaging.read import read_radiograph
from tests.browser.pages import FILE_INPUT, ask, digest_of_values, film_is_shown, upload

pytestmark = pytest.mark.shared


@pytest.fixture
def images(shared_dir: Path) -> Path:
    if not (shared_dir / "images" / "manifest.json").is_file():
        pytest.skip("the real films are not on this machine")
    return shared_dir / "images"


@pytest.mark.parametrize("name", ["cr_chest_pa_mono1_10bit.dcm", "cr_chest_pa_mono1_j2k_15bit.dcm"])
def test_a_real_film_stands_on_the_viewer_value_by_value(page: Any, images: Path, name: str) -> None:
    data = (images / "dicom" / name).read_bytes()
    stored = read_radiograph(data).stored
    upload(page, data)
    film_is_shown(page)
    assert f"{stored.shape[1]} × {stored.shape[0]}" in page.inner_text(".hud-facts")
    assert digest_of_values(page) == hashlib.sha256(stored.astype("<i4").tobytes()).hexdigest()


def test_every_file_of_a_real_folder_has_a_fate_and_no_report_is_made_up(page: Any, images: Path) -> None:
    names = [entry["file"] for entry in json.loads((images / "manifest.json").read_text())["dicom"]]
    page.set_input_files(FILE_INPUT, [str(images / name) for name in names], timeout=60_000)
    page.wait_for_selector(".fates li", timeout=60_000)
    assert page.locator(".fates li").count() == len(names)
    assert page.inner_text(".fates h3") == f"5 of {len(names)} files added"
    film_is_shown(page)
    ask(page, "Is there a pleural effusion?")
    assert "no report is written" in page.locator(".log article").last.inner_text()
