"""Where golden fixtures lie: `CXR_GOLDEN_DIR` (fixtures, or folders of them), else the copies in tests/."""

from __future__ import annotations

import os
from pathlib import Path

COPIES = Path(__file__).parent.parent / "fixtures" / "golden"


def golden_fixtures(marker: str) -> list[Path]:
    """Fixture folders below which, at most one folder deeper, a file called `marker` lies."""
    named = os.environ.get("CXR_GOLDEN_DIR", "")
    roots = [Path(text) for text in named.split(os.pathsep) if text] or [COPIES]
    candidates = [path for root in roots for path in (root, *sorted(root.glob("*/")))]
    return [path for path in candidates if _is_fixture(path) and _holds(path, marker)]


def _is_fixture(path: Path) -> bool:
    return any((path / name).is_file() for name in ("meta.json", "golden.json", "goldens.json"))


def _holds(path: Path, marker: str) -> bool:
    return any(path.glob(marker)) or any(path.glob(f"*/{marker}"))
