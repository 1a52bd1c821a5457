"""What the tests of the reading room share."""

from __future__ import annotations

import pytest

from cxr_assistant.ui.session import Session
from tests.ui.doubles import ScriptedAssistant, make_radiograph


@pytest.fixture
def assistant() -> ScriptedAssistant:
    return ScriptedAssistant()


@pytest.fixture
def session() -> Session:
    """A visitor with a synthetic film on the viewbox."""
    return Session("embedded").with_film(make_radiograph(phantom=True))
