"""From a seed to the embedded model: phantoms, tower, alignment, instruction, gate, folder.

`python -m cxr_assistant train` runs the recipe that made the committed weights; `--micro` runs a one-minute
version of every step. A run can be cut and called again: rendered phantoms and the taught tower are kept.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_assistant.checkpoints.embedded import CHAT_TEMPLATE
from cxr_assistant.checkpoints.folder import load_llava, write_llava
from cxr_assistant.imaging.phantom import TRAINING_SEEDS, VALIDATION_SEEDS, make_phantom
from cxr_assistant.imaging.transforms import prepare
from cxr_assistant.models.gate import PhantomGate, picture_features
from cxr_assistant.training.emphasis import hardest_seeds, seeds_to_learn_from
from cxr_assistant.training.guide import Guide
from cxr_assistant.training.language import train_tokenizer
from cxr_assistant.training.pictures import normalise
from cxr_assistant.training.pool import Pool, RenderJob, render_all
from cxr_assistant.training.recipe import EMBEDDED, MICRO, MICRO_PLAIN, PLAIN, PlainRecipe, Recipe
from cxr_assistant.training.stage_language import (
    make_student,
    retrain_language,
    take_over_words,
    train_language,
)
from cxr_assistant.training.stage_plain import train_plain_tower
from cxr_assistant.training.stage_stem import train_stem
from cxr_assistant.training.stage_tower import train_tower
from cxr_assistant.training.team import Team, run_team
from cxr_assistant.training.tower import TowerTeacher

__all__ = ["EMBEDDED", "MICRO", "MICRO_PLAIN", "PLAIN", "train", "train_plain"]

Report = Callable[[str], None]
_ADMITTED, _SLACK = 0.995, 1.12  # the threshold: this quantile of held-out phantoms, and some air


def train(
    recipe: Recipe, output: Path, work: Path, report: Report = print, processes: int | None = None
) -> Path:
    """Train by `recipe` and write a standard folder to `output`; phantoms and states go to `work`.

    One process per core renders; how many train is the recipe's, since each learns from its own share of a
    batch: with other `processes` the same seed gives another model. Several report on stderr.
    """
    return _run(_train_member, recipe, output, work, report, processes)


def train_plain(
    guide: Path,
    recipe: PlainRecipe,
    output: Path,
    work: Path,
    report: Report = print,
    processes: int | None = None,
) -> Path:
    """Train a model without convolutions by the finished one in `guide`, and write it to `output`.

    Its tower learns first, then its words, which begin as the guide's; films and states in `work` as `train`
    leaves them there.
    """
    return _run(partial(_train_plain_member, guide), recipe, output, work, report, processes)


def _run(
    member: Callable[..., None],
    recipe: Recipe,
    output: Path,
    work: Path,
    report: Report,
    processes: int | None,
) -> Path:
    """Phantoms, what each process of the team does, then the gate."""
    work.mkdir(parents=True, exist_ok=True)
    cores = processes or recipe.processes
    jobs = _jobs(recipe, work)
    renderers = render_all(jobs, os.cpu_count() or 1)
    try:
        run_team(cores, member, recipe, output, work, report if cores == 1 else _to_stderr)
    finally:
        for renderer in renderers:
            renderer.terminate()
    unseen = Pool(jobs.words, report)
    unseen.grow_to(recipe.language_phantoms)
    fit_gate(output, unseen, recipe, report, cores)
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    return output


def _train_plain_member(
    folder: Path, team: Team, recipe: PlainRecipe, output: Path, work: Path, report: Report
) -> None:
    jobs, guide = _jobs(recipe, work), Guide(folder)
    pool, hard, validation = Pool(jobs.eye, report), Pool(jobs.hard, report), Pool(jobs.check, report)
    state = work / f"plain-{recipe.fingerprint}.pt"
    tower = train_plain_tower(guide, (pool, hard), validation, recipe, report, state, team)
    unseen = Pool(jobs.words, report)
    unseen.grow_to(recipe.language_phantoms)
    student = make_student(recipe, guide.tokenizer.get_vocab_size(), tower)
    take_over_words(student, guide.llava)
    retrain_language(student, guide.tokenizer, unseen, recipe, report, team)
    if team.leads:
        write_student(student, guide.tokenizer, recipe, output)


class _Jobs(NamedTuple):
    """Phantoms to render, in this order."""

    check: RenderJob
    eye: RenderJob
    words: RenderJob
    hard: RenderJob


def _jobs(recipe: Recipe, work: Path) -> _Jobs:
    directory, unseen = work / f"phantoms-{recipe.image_px}", work / f"unseen-{recipe.image_px}"
    spec, cells = recipe.image_spec, recipe.cells
    seeds = seeds_to_learn_from(TRAINING_SEEDS.first, recipe.phantoms + recipe.language_phantoms)
    return _Jobs(
        check=RenderJob(unseen, VALIDATION_SEEDS.seeds(recipe.validation), spec, cells),
        eye=RenderJob(directory, seeds[: recipe.phantoms], spec, cells),
        # The tower is surer of films that it was taught with than it will ever be again: a language model
        # that learnt from those would say too little of others.
        words=RenderJob(directory, seeds[recipe.phantoms :], spec, cells),
        hard=RenderJob(directory, hardest_seeds(seeds[-1] + 1, recipe.hard_phantoms), spec, cells),
    )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _train_member(team: Team, recipe: Recipe, output: Path, work: Path, report: Report) -> None:
    """What each process of the team does; the first one writes."""
    jobs = _jobs(recipe, work)
    pool, hard, validation = Pool(jobs.eye, report), Pool(jobs.hard, report), Pool(jobs.check, report)
    stem = train_stem(pool, recipe, report, work / f"stem-{recipe.fingerprint}.safetensors", team)
    tower_state = work / f"tower-{recipe.fingerprint}.pt"
    teacher = train_tower(stem, pool, hard, validation, recipe, report, tower_state, team)
    unseen = Pool(jobs.words, report)
    unseen.grow_to(recipe.language_phantoms)
    _teach_language(recipe, teacher, unseen, output, work, report, team)


def _teach_language(
    recipe: Recipe, teacher: TowerTeacher, pool: Pool, output: Path, work: Path, report: Report, team: Team
) -> None:
    records = [record for shard in pool.shards[:8] for record in shard.records]
    tokenizer = train_tokenizer(records, recipe.vocabulary)
    student = make_student(recipe, tokenizer.get_vocab_size(), teacher.tower)
    state = work / f"words-{recipe.fingerprint}.safetensors"
    train_language(student, tokenizer, pool, recipe, report, state, team)
    if team.leads:
        write_student(student, tokenizer, recipe, output)


def write_student(student: Any, tokenizer: Any, recipe: Recipe, output: Path) -> None:
    """Write the standard folder, whole or not at all."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    write_llava(fresh, student, tokenizer, recipe.image_spec, chat_template=CHAT_TEMPLATE, precision="fp16")
    for name in ("CARD.md",):
        if (output / name).exists():
            shutil.copy(output / name, fresh / name)
    shutil.rmtree(output, ignore_errors=True)
    fresh.rename(output)


@torch.inference_mode()
def fit_gate(folder: Path, pool: Pool, recipe: Recipe, report: Report, processes: int = 1) -> PhantomGate:
    """Calibrate the gate on features of the stored model, so that its rounding is part of it.

    The cloud comes from a pool that the tower was not taught with, since films that it knows by heart lie
    closer together than any that will come, and from half of some phantoms at the product's own size; the
    threshold from the other half, which the cloud has not seen either.
    """
    model = load_llava(folder, recipe.image_spec, device="cpu", precision="fp32")
    every = np.arange(pool.available)
    cloud = [
        picture_features(model, normalise(pool.images(every[start : start + 10]), recipe))
        for start in range(0, len(every), 10)
    ]
    seeds = VALIDATION_SEEDS.seeds()[recipe.validation : recipe.validation + recipe.gate_films]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as renderers:
        films = renderers.map(partial(_prepared, recipe), seeds, chunksize=10)
        unseen = torch.cat([picture_features(model, torch.from_numpy(film)[None]) for film in films])
    gate = PhantomGate.fit(torch.cat([*cloud, unseen[::2]]), unseen[1::2], admit=_ADMITTED, slack=_SLACK)
    gate.save(folder / "gate.safetensors")
    admitted = float((gate.distance(unseen[1::2]) <= gate.threshold).float().mean())
    report(
        f"gate: threshold {gate.threshold:.2f} admits {admitted:.2%} of {len(unseen[1::2])} held-out phantoms"
    )
    return gate


def _prepared(recipe: Recipe, seed: int) -> NDArray[np.float32]:
    """A phantom as the product shows it to the model."""
    return prepare(make_phantom(seed).radiograph, recipe.image_spec)
