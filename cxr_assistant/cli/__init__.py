"""The command line: one module per subcommand, each importing what it needs when it runs.

It knows how people and scripts ask and how they are answered; it must not know how anything is computed.
"""

from __future__ import annotations

from cxr_assistant.cli.main import main

__all__ = ["main"]
