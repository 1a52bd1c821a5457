"""What is imported is named in the requirements, and what others keep private is known by name.

Knows the requirement files and the source; runs nothing of the app.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import gradio as gr
import pytest
from gradio import queueing

from cxr_assistant.settings import PROJECT_ROOT
from tests.ui.doubles import on_a_loop

PACKAGE = PROJECT_ROOT / "cxr_assistant"
OURS = {"cxr_assistant", "tests", "benchmarks", "examples"}
# A Space brings it; the engine asks whether it is there.
ELSEWHERE = {"spaces"}

# Names that a library does not promise, each with the file that relies on it. An upgrade that takes one away
# fails here, with its name.
PRIVATE_NAMES = [
    ("models/packing.py", "torch", "ops.mkldnn._reorder_linear_weight"),
    ("models/packing.py", "torch", "ops.mkldnn._linear_pointwise"),
    ("models/packing.py", "torch", "ops.mkldnn._is_mkldnn_bf16_supported"),
    ("checkpoints/random_weights.py", "torch._subclasses.fake_tensor", "FakeTensorMode"),
    ("checkpoints/hub.py", "huggingface_hub", "HfApi._build_hf_headers"),
    ("checkpoints/hub.py", "huggingface_hub.file_download", "http_get"),
]


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def named_in(*files: str) -> set[str]:
    """The distributions that the requirement files name themselves; `-r` lines are not followed."""
    texts = [(PROJECT_ROOT / file).read_text("utf-8") for file in files]
    return {_normal(n) for text in texts for n in re.findall(r"^([A-Za-z0-9_.-]+)[><=]", text, re.MULTILINE)}


def imported_in(paths: Iterable[Path]) -> Iterator[str]:
    """The top-level packages of others that the files import, anywhere in them."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            tops = {name.partition(".")[0] for name in names}
            yield from tops - OURS - ELSEWHERE - sys.stdlib_module_names


def unnamed(imports: Iterable[str], named: set[str]) -> list[str]:
    """The packages of which no distribution is named."""
    brought_by = packages_distributions()
    return [
        package
        for package in sorted(set(imports))
        if not named & {_normal(name) for name in brought_by.get(package, [package])}
    ]


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("cxr_assistant", ("requirements.txt", "requirements-mcp.txt")),
        ("benchmarks", ("requirements.txt", "requirements-dev.txt")),
        ("tests", ("requirements.txt", "requirements-mcp.txt", "requirements-dev.txt")),
    ],
)
def test_what_is_imported_is_named(folder: str, files: tuple[str, ...]) -> None:
    imports = imported_in(sorted((PROJECT_ROOT / folder).rglob("*.py")))
    assert unnamed(imports, named_in(*files)) == []


def test_an_import_that_nobody_named_is_found(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("def f():\n    import fastapi.routing, numpy\n", encoding="utf-8")
    assert unnamed(imported_in([tmp_path / "part.py"]), {"numpy"}) == ["fastapi"]


@pytest.mark.parametrize(("file", "module", "name"), PRIVATE_NAMES)
def test_a_private_name_that_is_relied_upon_is_there(file: str, module: str, name: str) -> None:
    assert name.rpartition(".")[2] in (PACKAGE / file).read_text("utf-8"), f"no longer used in {file}"
    found = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{module} has no {name}, which {file} relies on"
        found = getattr(found, part)


def test_what_gradio_keeps_private_and_the_app_reads_is_there() -> None:
    """ui/app.py reads a visitor's session, ui/web/site.py drops it and names what programs may call."""
    blocks = on_a_loop(_blocks)
    blocks.state_holder.set_blocks(blocks)
    assert blocks.state_holder["a visitor"].state_data == {}
    for holder, names in (
        (blocks.state_holder, ("session_data", "time_last_used")),
        (blocks._queue, ("pending_event_ids_session", "pending_messages_per_session")),
        (next(iter(blocks.fns.values())), ("_id", "api_name", "api_visibility")),
        (queueing, ("traceback",)),
    ):
        assert [name for name in names if not hasattr(holder, name)] == []


def test_what_mcp_keeps_private_and_the_app_reads_is_there() -> None:
    server = pytest.importorskip("mcp.server", reason="requirements-mcp.txt is not installed")
    assert hasattr(server.MCPServer("test"), "_lowlevel_server")


def _blocks() -> gr.Blocks:
    with gr.Blocks() as blocks:
        state = gr.State(7)
        assert isinstance(state._id, int)
        gr.Button().click(lambda: None, api_name="named")
    return blocks
