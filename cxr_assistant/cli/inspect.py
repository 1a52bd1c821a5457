"""`inspect`: what the reader made of a file, without asking any model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.cli.arguments import FilmReader, Subparsers, collect_files
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console
from cxr_assistant.errors import SettingsError, StudyError

if TYPE_CHECKING:
    from cxr_assistant.study import Radiograph

__all__ = ["add_command", "facts_of"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "inspect", run, "Show what the reader makes of files or folders.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="DICOM, PNG or JPEG, or a folder of them")
    parser.add_argument("--png", metavar="FILE", type=Path, help="write the film as people see it (one film)")


def run(arguments: argparse.Namespace, console: Console) -> int:
    reader = FilmReader(os.urandom(32))
    files = list(collect_files(arguments.files))
    if arguments.png and len(files) != 1:
        raise SettingsError(f"--png writes one film; {len(files)} files were given.")
    exit_code = 0
    for file in files:
        try:
            radiograph = reader.read(file)
        except StudyError as error:
            console.fail(error, file)
            exit_code = 2
            continue
        console.result({"status": "ok", "file": file, **facts_of(radiograph)}, _table(file, radiograph))
        if arguments.png:
            _write_png(radiograph, arguments.png)
    return exit_code


def facts_of(radiograph: Radiograph) -> dict[str, Any]:
    """The documented facts; what compares films of one session means nothing here and is left out."""
    return {
        "source": radiograph.source,
        "modality": radiograph.modality_code,
        "view": radiograph.view.value,
        "width": radiograph.width,
        "height": radiograph.height,
        "bits_stored": radiograph.bits_stored,
        "is_inverted": radiograph.is_inverted,
        "orientation": list(radiograph.orientation) if radiograph.orientation else None,
        "pixel_spacing_mm": list(radiograph.pixel_spacing_mm) if radiograph.pixel_spacing_mm else None,
        "windows": [
            {"center": w.center, "width": w.width, "function": w.function.value, "explanation": w.explanation}
            for w in radiograph.windows
        ],
        "num_voi_luts": len(radiograph.voi_luts),
        "is_marked_phantom": radiograph.is_marked_phantom,
        "notices": list(radiograph.notices),
        "digest": radiograph.digest,
    }


def _table(file: str, radiograph: Radiograph) -> str:
    facts = facts_of(radiograph)
    facts["windows"] = ", ".join(
        f"{w['center']:g}/{w['width']:g} {w['explanation']}".strip() for w in facts["windows"]
    )
    facts["notices"] = " ".join(radiograph.notices)
    shown = {key: value for key, value in facts.items() if value not in (None, "", [])}
    width = max(map(len, shown))
    return "\n".join(
        [file, *(f"  {key.replace('_', ' '):<{width}}  {value}" for key, value in shown.items())]
    )


def _write_png(radiograph: Radiograph, target: Path) -> None:
    import numpy as np

    from cxr_assistant.imaging.rendering import encode_png, render_for_people

    pixels = np.rint(render_for_people(radiograph) * 255).astype(np.uint8)
    try:
        target.write_bytes(encode_png(pixels))
    except OSError as error:
        raise SettingsError("The file given with --png cannot be written.", hint="Choose another.") from error
