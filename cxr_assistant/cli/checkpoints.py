"""`checkpoints`: list what can be chosen, fetch what is published, verify what was converted, make random
weights for measuring."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint

__all__ = ["add_command", "card_of"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "checkpoints", list_all, "List, fetch, verify or imitate checkpoints.")
    actions = parser.add_subparsers(metavar="ACTION")
    add(actions, "list", list_all, "What can be chosen, and under which licence (the default).")
    fetch_parser = add(actions, "fetch", fetch, "Download, verify and convert one checkpoint.")
    fetch_parser.add_argument("name", help="such as llava-rad")
    fetch_parser.add_argument("--into", metavar="DIR", type=Path, help="where the converted folder goes")
    fetch_parser.add_argument("--accept-licence", metavar="NAME", action="append", default=[])
    verify_parser = add(actions, "verify", verify, "Hash the converted files and compare with their lock.")
    verify_parser.add_argument("name", help="such as llava-rad")
    verify_parser.add_argument("--weights", metavar="DIR", type=Path, help="a converted folder elsewhere")
    fits_parser = add(actions, "fits", fits, "What each precision of a checkpoint needs, and what is free.")
    fits_parser.add_argument("name", help="such as llava-rad")
    random_parser = add(actions, "make-random", make_random, "Write random weights in the published layout.")
    random_parser.add_argument("name", help="such as llava-rad")
    random_parser.add_argument(
        "directory", type=Path, metavar="DIR", help="a folder that is empty or not there yet"
    )


def list_all(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.checkpoints.spec import list_checkpoints
    from cxr_assistant.checkpoints.weights import is_ready
    from cxr_assistant.settings import read_settings

    weights_dir = read_settings().weights_dir
    for checkpoint in list_checkpoints():
        card = card_of(checkpoint) | {"is_ready": is_ready(checkpoint, weights_dir)}
        console.result(card, _as_text(card))
    return 0


def fetch(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.checkpoints.licences import accept_licence, require_licence
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.checkpoints.weights import fetch as fetch_weights
    from cxr_assistant.checkpoints.weights import is_ready, plan_fetch
    from cxr_assistant.settings import read_settings

    for name in arguments.accept_licence:
        accept_licence(get_checkpoint(name))
    checkpoint = get_checkpoint(arguments.name)
    require_licence(checkpoint)
    weights_dir = arguments.into or read_settings().weights_dir
    # The Hub's client tries again by itself, and its warnings would break the line of progress.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    plan = plan_fetch(checkpoint, weights_dir) if not is_ready(checkpoint, weights_dir) else None
    if plan:
        console.remark(f"{checkpoint.title}: {plan.sentence}.")
    directory = fetch_weights(
        checkpoint, weights_dir, on_progress=lambda progress: console.progress(progress.sentence)
    )
    console.end_progress()
    values = {"status": "ok", "checkpoint": checkpoint.name, "directory": str(directory)}
    console.result(values, f"{checkpoint.title} is ready.")
    return 0


def verify(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.checkpoints.weights import verify as verify_weights

    checkpoint = get_checkpoint(arguments.name)
    folder, lock = verify_weights(
        checkpoint, arguments.weights, on_progress=lambda progress: console.progress(progress.sentence)
    )
    console.end_progress()
    values = {"status": "ok", "checkpoint": checkpoint.name, "directory": str(folder)}
    console.result(
        values, f"All {len(lock.files)} files of {checkpoint.title} are as they were written ({folder})."
    )
    return 0


def fits(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.models.precision import Footprint, list_fits, read_device
    from cxr_assistant.settings import read_settings

    footprint = Footprint.estimate(get_checkpoint(arguments.name).num_parameters)
    for fit in list_fits(footprint, read_device(read_settings().device)):
        values = {
            "precision": fit.precision.value,
            "needed_bytes": fit.needed_bytes,
            "free_bytes": fit.free_bytes,
            "is_possible": fit.is_possible,
            "fits": fit.fits,
        }
        console.result(values, f"{fit.sentence}{'' if fit.fits else ': does not fit'}")
    return 0


def make_random(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.checkpoints.weights import make_random as write_random

    checkpoint = get_checkpoint(arguments.name)
    write_random(checkpoint, arguments.directory)
    values = {"status": "ok", "checkpoint": checkpoint.name, "directory": str(arguments.directory)}
    console.result(
        values, f"Random weights in the layout of {checkpoint.title} are in {arguments.directory}."
    )
    return 0


def card_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The documented keys of a checkpoint's card."""
    return {
        "name": checkpoint.name,
        "title": checkpoint.title,
        "summary": checkpoint.summary,
        "repository": checkpoint.repository,
        "revision": checkpoint.revision,
        "tasks": [task.value for task in checkpoint.tasks],
        "templates": dict(t for wording in checkpoint.tasks.values() for t in wording.templates),
        "max_images": checkpoint.max_images,
        "views": sorted(view.value for view in checkpoint.views),
        "supports_prior": checkpoint.supports_prior,
        "supports_boxes": checkpoint.supports_boxes,
        "phantoms_only": checkpoint.phantoms_only,
        "licence": checkpoint.licence.name,
        "licence_url": checkpoint.licence.url,
        "terms": checkpoint.licence.terms,
        "weakness": checkpoint.weakness,
        "citation": checkpoint.citation,
    }


def _as_text(card: dict[str, Any]) -> str:
    state = "ready" if card["is_ready"] else "not fetched"
    return (
        f"{card['name']}  ({card['title']}, {state})\n  {card['summary']}\n"
        f"  tasks: {', '.join(card['tasks'])}\n  licence: {card['licence']}. {card['terms']}"
    )
