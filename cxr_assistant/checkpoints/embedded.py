"""The embedded model: a small LLaVA after LLaVA-Rad with a stem of its own, taught on computed phantoms.

Reads one synthetic radiograph of any view and a short conversation; writes findings, answers and the
view in the words of its training. Dinov2 tower (336 pixels; the film and two maps of its structure; a small
convolutional stem beside its patches), two-layer projector, small Llama; weights are committed in
weights/embedded and made anew by `training/`.
No paper. Licence: that of the project. Known weakness: it has seen phantoms alone and knows nothing of
patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_assistant.checkpoints.spec import Checkpoint, Licence, TaskWording
from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import MissingRadiograph
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.study import Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.models.vlm import Processor, Prompt, VisionLanguageModel

__all__ = [
    "CHAT_TEMPLATE",
    "CHECKPOINT",
    "END",
    "WEIGHT_MAP",
    "build",
    "make_random",
    "prompt_pieces",
    "render",
]

# ------------------------------------------------------------------------------------------ the checkpoint

CHECKPOINT = Checkpoint(
    name="embedded",
    title="Embedded phantom model",
    summary="Small, offline, answers at once; understands synthetic radiographs only.",
    repository="weights/embedded",
    revision="fd10829fc6a3aa132c6c767283ef64bfe079a103",  # SHA-1 of weights/embedded/model.safetensors
    files=(),
    licence=Licence(
        name="Apache-2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        terms="Free to use, change and pass on, like the code. Not a medical device.",
        needs_acceptance=False,
    ),
    citation="CXR Assistant, weights/embedded/CARD.md",
    tasks={
        Task.FINDINGS: TaskWording(prompt="Describe the findings of this radiograph."),
        Task.QUESTION: TaskWording(
            prompt="{text}",
            hint='For example "Is there a pleural effusion?" or "Which side?"',
            needs_text=True,
            follow_ups={  # imaging/phantom/words.py, from which training asks
                "side": ("On which side is the {noun}?",),
                "size": ("How large is the {noun}?",),
                "grade": ("How severe is the {noun}?",),
                "zone": ("In which zone is the {noun}?",),
                "presence": ("Is there {a_noun}?",),
                "any": ("Are there any support devices?", "Is this radiograph normal?"),
            },
        ),
        Task.VIEW: TaskWording(prompt="Which view is this?"),
    },
    image=ImageSpec(  # as training/ prepares phantoms; the folder's own files win
        size_px=336,
        channels=3,  # the film, and maps of its thin upright lines and of its blobs
        mean=(0.5, 0.1, 0.1),
        std=(0.25, 0.2, 0.2),
        resize=ResizeRule.PAD,  # nothing of the film is cut off
        resampling="bicubic",
        rendering=Rendering.STRUCTURE,
    ),
    max_images=1,
    views=frozenset({ViewPosition.PA, ViewPosition.AP, ViewPosition.LATERAL}),
    supports_prior=False,
    supports_boxes=False,
    multi_turn=True,
    phantoms_only=True,
    context_length=1024,
    can=(
        "Describe the findings of a synthetic radiograph of any view",
        "Answer short questions about presence, side, severity and devices, one after the other",
        "Tell the view",
    ),
    cannot=("Read a radiograph of a person: such a film is recognised and refused", "Compare with a prior"),
    weakness="It has seen phantoms alone; what it says means nothing for a patient.",
    num_parameters=5_210_400,
    max_new_tokens=256,
    is_embedded=True,
)

# --------------------------------------------------------------------------------------------- the weights

# Training writes the standard folder itself, so nothing is renamed and nothing is converted.
WEIGHT_MAP: Mapping[str, str | None] = {"*": "*"}

# ---------------------------------------------------------------------------------------------- the prompt


@dataclass(frozen=True)
class _End:
    """Marks the end of an answer in a prompt; becomes the id of "</s>"."""


END = _End()

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %} ASSISTANT:{% else %} {{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)


def render(
    checkpoint: Checkpoint, study: Study, conversation: Conversation, task: Task, processor: Processor
) -> Prompt:
    """Film, earlier exchanges with this model, and the newest question. Raises MissingRadiograph."""
    from cxr_assistant.checkpoints.prompting import assemble

    if study.is_empty:
        raise MissingRadiograph("There is no radiograph to look at.", hint="Add a synthetic radiograph.")
    wording = checkpoint.tasks.get(task, checkpoint.tasks[Task.FINDINGS])
    question = conversation.last_question or wording.prompt
    end = processor.tokenizer.id_of("</s>")
    pieces = prompt_pieces(_exchanges(conversation, checkpoint.name), question)
    first, *rest = (end if isinstance(piece, _End) else piece for piece in pieces)
    return assemble((first, study.radiographs[0], *rest), processor)


def prompt_pieces(exchanges: Sequence[tuple[str, str]], question: str) -> Iterator[str | _End]:
    """The text pieces of a prompt in order; the film stands between the first and the second.

    Training tokenises the same pieces, each on its own, with the newest answer as " {answer}" and END.
    """
    yield "USER: "
    opening = "\n"
    for asked, answered in exchanges:
        yield f"{opening}{asked} ASSISTANT:"
        yield f" {answered}"
        yield END
        opening = "USER: "
    yield f"{opening}{question} ASSISTANT:"


def _exchanges(conversation: Conversation, name: str) -> list[tuple[str, str]]:
    """Questions that this checkpoint answered, with its answers; what another model said is left out."""
    turns = conversation.turns
    return [
        (asked.text, answered.text.strip())
        for asked, answered in pairwise(turns)
        if (asked.role, answered.role) == (Role.USER, Role.ASSISTANT) and answered.checkpoint in ("", name)
    ]


# ----------------------------------------------------------------------------------------------- the model


def build(directory: Path, *, device: str, precision: str) -> VisionLanguageModel:
    """The model of the committed folder."""
    from cxr_assistant.checkpoints.folder import load_llava

    return load_llava(directory, CHECKPOINT.image, device=device, precision=precision)


def make_random(target: Path, *, seed: int = 0) -> None:
    """Write a tiny folder of random weights (about 1 MB): the app runs on it, and what it says is noise."""
    from cxr_assistant.checkpoints.tiny import write_tiny_llava

    write_tiny_llava(target, CHECKPOINT.image, chat_template=CHAT_TEMPLATE, seed=seed)
