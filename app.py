"""The door: read the settings, build the assistant, open the app. Also the entry of a Hugging Face Space."""

from __future__ import annotations

import sys

from cxr_assistant.cli import main

if __name__ == "__main__":  # the engine's process imports this file again and must not open a second door
    sys.exit(main(["serve", *sys.argv[1:]]))
