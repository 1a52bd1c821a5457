"""The direction of imports is the architecture: this test walks every import and names the wall it breaks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cxr_assistant"

FOUNDATION = {"conversation", "errors", "generation", "report", "settings", "study", "tasks"}
ROOMS = {
    "imaging",
    "models",
    "checkpoints",
    "engine",
    "evidence",
    "assistant",
    "ui",
    "evaluation",
    "training",
}
MAY_IMPORT = {
    "foundation": set(),
    "imaging": {"foundation"},
    "models": {"imaging", "foundation"},
    "checkpoints": {"models", "imaging", "foundation"},
    "engine": {"models", "foundation"},
    "evidence": {"models", "foundation"},
    "assistant": {"engine", "evidence", "models", "checkpoints", "imaging", "foundation"},
    "ui": {"assistant", "imaging.rendering", "foundation"},
    "evaluation": {"assistant", "foundation"},
    "training": {"checkpoints", "models", "imaging", "foundation"},
    "cli": ROOMS | {"foundation"},
}
# Who may open which third-party door. A package that is not listed is open to all.
DOORS = {
    "PIL": {"imaging"},
    "pydicom": {"imaging"},
    "gdcm": {"imaging"},
    "jpeg_ls": {"imaging"},
    "gradio": {"ui"},
    "fastapi": {"ui"},
    "starlette": {"ui"},
    "mcp": {"ui"},
    "spaces": {"engine"},
    "torch": {"models", "checkpoints", "engine", "evidence", "training", "residents", "serving"},
    "transformers": {"models", "checkpoints", "engine", "evidence", "training"},
    "bitsandbytes": {"models"},
    "accelerate": {"models", "checkpoints"},  # checkpoints streams weights in with its empty layers and hooks
    "safetensors": {"checkpoints", "models", "training"},  # beyond checkpoints: the phantom gate's own file
    "tokenizers": {"checkpoints", "training"},  # training learns the embedded model's vocabulary
    "sentencepiece": {"checkpoints"},
    "huggingface_hub": {"checkpoints"},
}
SURFACE = {"__init__", "__main__"}
FRONT_DESK = {  # one room
    "assistant",
    "bounds",
    "fitting",
    "harmless",
    "loading",
    "parts",
    "residents",
    "serving",
    "store",
}


def room_of(module: str) -> str:
    """The room of `cxr_assistant.<module>`."""
    top = module.split(".", maxsplit=1)[0]
    if top in FOUNDATION:
        return "foundation"
    return "assistant" if top in FRONT_DESK else top


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), path


def nodes_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`: the type of a value handed over may be named."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from nodes_that_run(node)


def imports_of(path: Path) -> Iterator[str]:
    for node in nodes_that_run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute, so that the room can be read"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken_walls(module: str, path: Path) -> Iterator[str]:
    room = room_of(module)
    for name in imports_of(path):
        package, _, inner = name.partition(".")
        if package == "cxr_assistant" and inner:
            target = room_of(inner)
            allowed = MAY_IMPORT[room]
            if target in ROOMS | {"foundation", "cli"} and target != room and target not in allowed:
                if not any(inner == fine or inner.startswith(f"{fine}.") for fine in allowed):
                    yield f"{room} must not import cxr_assistant.{inner} ({path.relative_to(PACKAGE)})"
        elif package in DOORS and not {room, module.split(".", maxsplit=1)[0]} & DOORS[package]:
            yield f"{room} must not import {package} ({path.relative_to(PACKAGE)})"


@pytest.mark.parametrize(
    ("module", "path"), [pytest.param(m, p, id=m) for m, p in modules() if m not in SURFACE]
)
def test_a_room_imports_only_downwards(module: str, path: Path) -> None:
    assert not sorted(set(broken_walls(module, path)))


def test_every_folder_of_the_package_is_a_known_room() -> None:
    tops = {module.split(".")[0] for module, _ in modules()}
    assert tops - SURFACE - FRONT_DESK <= ROOMS | FOUNDATION | {"cli"}


def test_a_forbidden_import_is_named_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "ui" / "chat.py"
    wrong.parent.mkdir()
    wrong.write_text("from cxr_assistant.engine import engine\nimport pydicom\n", encoding="utf-8")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert list(broken_walls("ui.chat", wrong)) == [
        "ui must not import cxr_assistant.engine (ui/chat.py)",
        "ui must not import cxr_assistant.engine.engine (ui/chat.py)",
        "ui must not import pydicom (ui/chat.py)",
    ]
