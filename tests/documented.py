"""The code blocks of a document, run as a reader would run them: in order, in one namespace."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT_ROOT

ADDRESS = "http://127.0.0.1:7860"


def blocks_of(document: Path, heading: str) -> list[str]:
    """The python blocks of the section under `heading`, to the next heading of the same depth."""
    text = document.read_text("utf-8")
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run_section(document: Path, heading: str, address: str) -> list[str]:
    """What each block prints when the app listens at `address`; films are those of `examples/`."""
    namespace: dict[str, Any] = {}
    printed = []
    for block in blocks_of(document, heading):
        source = block.replace(ADDRESS, address.rstrip("/")).replace(
            '"examples/', f'"{PROJECT_ROOT}/examples/'
        )
        with redirect_stdout(StringIO()) as output:
            exec(compile(source, document.name, "exec"), namespace)
        printed.append(output.getvalue())
    return printed
