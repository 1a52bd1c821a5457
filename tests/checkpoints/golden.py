"""Where golden fixtures lie: `CXR_GOLDEN_DIR` (fixtures, or folders of them), else the copies in tests/."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DESCRIPTIONS = ("meta.json", "golden.json", "goldens.json")
COPIES = Path(__file__).parent.parent / "fixtures" / "golden"


def golden_fixtures(marker: str) -> list[Path]:
    """Fixture folders below which, at most one folder deeper, a file called `marker` lies."""
    named = os.environ.get("CXR_GOLDEN_DIR", "")
    roots = [Path(text) for text in named.split(os.pathsep) if text] or [COPIES]
    candidates = [path for root in roots for path in (root, *sorted(root.glob("*/")))]
    return [path for path in candidates if _is_fixture(path) and _holds(path, marker)]


def expectations(fixture: Path) -> dict[str, Any]:
    """The fixture's own description of what must come out."""
    path = next(fixture / name for name in DESCRIPTIONS if (fixture / name).is_file())
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def most_cases(fixtures: Iterable[Path], key: str = "cases") -> range:
    """Numbers for the longest list called `key` among `fixtures`; a test skips those that a fixture lacks."""
    return range(max((len(expectations(fixture)[key]) for fixture in fixtures), default=0))


def _is_fixture(path: Path) -> bool:
    return any((path / name).is_file() for name in DESCRIPTIONS)


def _holds(path: Path, marker: str) -> bool:
    return any(path.glob(marker)) or any(path.glob(f"*/{marker}"))
