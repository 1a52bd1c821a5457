"""What is served, as data: one `Checkpoint` per model, found by reading this folder.

Knows what a checkpoint declares about itself; must not know how any of them is fetched, built or run,
and imports no torch, so that listing is instant.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import CheckpointError, SettingsError, UnknownCheckpoint
from cxr_assistant.imaging.transforms import ImageSpec
from cxr_assistant.settings import read_pins
from cxr_assistant.study import Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.models.vlm import Processor, Prompt, VisionLanguageModel

__all__ = [
    "Checkpoint",
    "CheckpointModule",
    "Licence",
    "RemoteFile",
    "TaskWording",
    "find_by_name",
    "find_module",
    "get_checkpoint",
    "list_checkpoints",
]

_REVISION = re.compile(r"[0-9a-f]{40}")
_DECLARATION = re.compile(r"^CHECKPOINTS?\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The terms under which the weights may be used; `terms` is one or two sentences for a person."""

    name: str
    url: str
    terms: str
    needs_acceptance: bool


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file on the Hub at a pinned revision; `path` may be a pattern such as `*.safetensors`."""

    repository: str
    revision: str
    path: str

    def __post_init__(self) -> None:
        _require_pinned(self.repository, self.revision)


@dataclass(frozen=True, kw_only=True)
class TaskWording:
    """How one task is put into words: `prompt` as in training, with {text} where the person's words go.

    `hint` tells the person what to type when `needs_text`; `num_images` is what the task needs at least,
    `most_images` what it reads at most where that is less than the checkpoint reads. `follow_ups` are
    questions as in training that a person may be offered after an answer, by what they ask for: "side",
    "size", "grade" and "zone" of a {noun}, "presence" of {a_noun}, and "any". `templates`: further
    requests of the training that are put in as such a question, by the authors' names for them.
    """

    prompt: str
    hint: str = ""
    needs_text: bool = False
    needs_prior: bool = False
    num_images: int = 1
    most_images: int | None = None
    choices: tuple[str, ...] = ()
    follow_ups: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    templates: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model that can be chosen, and all that a person or a loader must know before touching its weights.

    `repository` and `revision` identify what spoke; `files` is everything to download, base models
    included. `image` is the published preprocessing; a folder's own configuration wins over it.
    """

    name: str
    title: str
    summary: str
    repository: str
    revision: str
    files: tuple[RemoteFile, ...]
    licence: Licence
    citation: str
    tasks: Mapping[Task, TaskWording] = field(hash=False)
    image: ImageSpec
    max_images: int
    views: frozenset[ViewPosition]
    supports_prior: bool
    supports_boxes: bool
    multi_turn: bool
    phantoms_only: bool
    context_length: int
    can: tuple[str, ...]
    cannot: tuple[str, ...]
    weakness: str
    num_parameters: int
    max_new_tokens: int = 256
    is_embedded: bool = False

    def __post_init__(self) -> None:
        _require_pinned(self.repository, self.revision)
        object.__setattr__(self, "tasks", MappingProxyType(dict(self.tasks)))

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled; between processes the name is enough.
        return (get_checkpoint, (self.name,))


class CheckpointModule(Protocol):
    """A file of this folder, in five parts: docstring, CHECKPOINT(S), WEIGHT_MAP, `render`, `build`.

    `convert` turns the published layout (local folders, one per repository, in any order) into the folder
    that `build` reads; checkpoints that are published in that form already have none.
    """

    WEIGHT_MAP: Mapping[str, str | None]

    def render(
        self,
        checkpoint: Checkpoint,
        study: Study,
        conversation: Conversation,
        task: Task,
        processor: Processor,
    ) -> Prompt:
        """The prompt exactly as in training; the newest user turn of `conversation` is the question."""

    def build(self, directory: Path, *, device: str, precision: str) -> VisionLanguageModel:
        """The model of a converted folder; `precision` is a `models.precision.Precision` value."""

    def convert(self, sources: Sequence[Path], target: Path, *, precision: str) -> None:
        """Write the converted folder into the empty directory `target`."""


def list_checkpoints() -> tuple[Checkpoint, ...]:
    """Every checkpoint of this folder, by name; the embedded one first."""
    return tuple(sorted(_menu(), key=lambda c: (not c.is_embedded, c.name)))


def get_checkpoint(name: str) -> Checkpoint:
    """The checkpoint called `name`; raises UnknownCheckpoint with the names that there are."""
    return find_by_name(list_checkpoints(), name)


def find_by_name(menu: Iterable[Checkpoint], name: str) -> Checkpoint:
    """The checkpoint of `menu` called `name`; raises UnknownCheckpoint with the names that it holds."""
    by_name = {checkpoint.name: checkpoint for checkpoint in menu}
    if name in by_name:
        return by_name[name]
    hint, repository = "Choose one of these.", _unpinned().get(name)
    if repository is not None:
        hint = (
            f"No commit of {repository} is known here. Take one from "
            f"https://huggingface.co/{repository}/commits/main and set CXR_PINS={name}=COMMIT."
        )
    raise UnknownCheckpoint(
        f"Unknown checkpoint {name!r}; available: {', '.join(sorted(by_name))}.", hint=hint
    )


def find_module(name: str) -> CheckpointModule:
    """The file that declares the checkpoint called `name`; raises UnknownCheckpoint."""
    return cast(CheckpointModule, importlib.import_module(_menu()[get_checkpoint(name)]))


@cache
def _menu() -> Mapping[Checkpoint, str]:
    """Each checkpoint and the module that declares it. No registry: the folder listing is the menu."""
    found: dict[Checkpoint, str] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not _declares_checkpoints(path):
            continue
        qualified = f"{__package__}.{path.stem}"
        for checkpoint in _declared_in(qualified):
            if any(checkpoint.name == other.name for other in found):
                raise CheckpointError(f"Two checkpoints are called {checkpoint.name!r}.", hint="Rename one.")
            found[checkpoint] = qualified
    _refuse_stray_pins({checkpoint.name for checkpoint in found})
    return found


def _refuse_stray_pins(names: Set[str]) -> None:
    stray = [name for name, _ in read_pins() if name not in names]
    if stray:
        raise SettingsError(
            f"CXR_PINS pins {stray[0]!r}, and there is no such checkpoint.", hint="Check its name."
        )


def _unpinned() -> Mapping[str, str]:
    """Name -> repository of models that are served only where the owner pins a commit (CXR_PINS)."""
    modules = (importlib.import_module(name) for name in sorted(set(_menu().values())))
    return {name: repo for module in modules for name, repo in getattr(module, "UNPINNED", {}).items()}


def _declared_in(module_name: str) -> Iterator[Checkpoint]:
    module = importlib.import_module(module_name)
    if hasattr(module, "CHECKPOINT"):
        yield module.CHECKPOINT
    yield from getattr(module, "CHECKPOINTS", ())


def _declares_checkpoints(path: Path) -> bool:
    # Read, not imported: the room's other files may import torch, and listing must stay instant.
    return _DECLARATION.search(path.read_text("utf-8")) is not None


def _require_pinned(repository: str, revision: str) -> None:
    if not _REVISION.fullmatch(revision):
        raise CheckpointError(
            f"{repository} is pinned to {revision!r}; allowed: a commit of 40 hexadecimal digits.",
            hint="A branch or tag can change under a checkpoint.",
        )
