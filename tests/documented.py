"""The code blocks of a document, run as a reader would run them: in order, in one namespace."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
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
        # In a thread of its own: the driver of browser tests keeps a loop running in this one.
        with redirect_stdout(StringIO()) as output, ThreadPoolExecutor(1) as thread:
            thread.submit(exec, compile(source, document.name, "exec"), namespace).result()
        printed.append(output.getvalue())
    return printed
