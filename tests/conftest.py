"""What every test may ask for; and no test may leave the machine unless it is marked `network`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.figures import (  # noqa: F401  hooks and fixtures for every test
    figure,
    pytest_runtest_logreport,
    pytest_runtest_setup,
    pytest_sessionfinish,
)

# Before gradio, transformers or the Hub client are imported by any test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def shared_directory() -> Path | None:
    """The folder of real radiographs: CXR_SHARED_DIR, or `shared` beside the checkout."""
    directory = Path(os.environ.get("CXR_SHARED_DIR") or PROJECT_ROOT.parent / "shared")
    return directory if directory.is_dir() else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    directory = shared_directory()
    if directory is None:
        pytest.skip("real radiographs are not distributed with the project; set CXR_SHARED_DIR")
    return directory


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium."""
    for name in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"):
        if Path(name).exists():
            return name
    pytest.skip("no Chromium on this machine")
