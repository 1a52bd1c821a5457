"""`python -m cxr_assistant`: the command line."""

from __future__ import annotations

import sys

from cxr_assistant.cli import main

sys.exit(main())
