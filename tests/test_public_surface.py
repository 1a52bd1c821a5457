"""The names that others may rely on: sorted, all there, and free of charge until they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cxr_assistant


def test_the_public_surface_is_sorted() -> None:
    assert cxr_assistant.__all__ == sorted(cxr_assistant.__all__)


@pytest.mark.parametrize("name", cxr_assistant.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    assert getattr(cxr_assistant, name).__doc__


def test_the_table_of_homes_and_the_public_surface_agree() -> None:
    assert sorted(cxr_assistant._HOME_OF) == cxr_assistant.__all__
    assert set(cxr_assistant.__all__) <= set(dir(cxr_assistant))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'llava'"):
        _ = cxr_assistant.llava


def test_importing_the_package_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'gradio', 'pydicom', 'PIL', 'numpy'}"
    code = f"import sys, cxr_assistant; print(*{heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert loaded.stdout.split() == []
