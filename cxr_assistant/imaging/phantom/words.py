"""The truth in words: a findings text and question-answer pairs for a phantom, and back again.

Says only what the picture shows: a finding below its threshold of visibility is not mentioned, a lateral
view names no side. `read_report` is the inverse, used to score what a model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from cxr_assistant.imaging.phantom.findings import FindingKind, Severity, Side, Zone
from cxr_assistant.study import ViewPosition

if TYPE_CHECKING:
    from cxr_assistant.imaging.phantom.generator import Phantom

__all__ = [
    "FINDINGS_PROMPT",
    "NOUNS",
    "VIEW_PROMPT",
    "Mention",
    "QuestionAnswer",
    "ReadReport",
    "findings_text",
    "questions",
    "read_report",
    "write_findings",
]

FINDINGS_PROMPT = "Describe the findings of this radiograph."
VIEW_PROMPT = "Which view is this?"

K = FindingKind
NOUNS = {
    K.PLEURAL_EFFUSION: "pleural effusion",
    K.PNEUMOTHORAX: "pneumothorax",
    K.CARDIOMEGALY: "cardiomegaly",
    K.CONSOLIDATION: "consolidation",
    K.PULMONARY_EDEMA: "pulmonary edema",
    K.ATELECTASIS: "atelectasis",
    K.NODULE: "nodule",
    K.MASS: "mass",
    K.ENDOTRACHEAL_TUBE: "endotracheal tube",
    K.CENTRAL_LINE: "central venous catheter",
    K.PACEMAKER: "pacemaker",
}
_UNCOUNTED = (K.CARDIOMEGALY, K.CONSOLIDATION, K.PULMONARY_EDEMA, K.ATELECTASIS)
_DEVICES = (K.ENDOTRACHEAL_TUBE, K.CENTRAL_LINE, K.PACEMAKER)


class Mention(NamedTuple):
    """One finding as stated: what is not stated is None."""

    kind: FindingKind
    side: Side | None = None
    severity: Severity | None = None
    zone: Zone | None = None


@dataclass(frozen=True)
class ReadReport:
    """What a text says: positive mentions in order, and the view if it names one."""

    mentions: tuple[Mention, ...]
    view: ViewPosition | None

    def of(self, kind: FindingKind) -> tuple[Mention, ...]:
        return tuple(mention for mention in self.mentions if mention.kind is kind)


@dataclass(frozen=True)
class QuestionAnswer:
    """A question about one phantom; `topic` is presence, side, severity, zone, view, devices or normal."""

    topic: str
    question: str
    answer: str
    kind: FindingKind | None = None


def mentions(phantom: Phantom) -> tuple[Mention, ...]:
    """What a correct report of this picture mentions; a lateral view tells neither side, grade nor zone."""
    if phantom.view.is_lateral:
        return tuple(dict.fromkeys(Mention(finding.kind) for finding in phantom.visible))
    return tuple(Mention(f.kind, f.side, f.severity, f.zone) for f in phantom.visible)


# --- the report -------------------------------------------------------------------------------------------

_HEART = ("The heart is normal in size.", "Heart size is normal.", "The cardiac silhouette is not enlarged.")
_CLEAR = ("The lungs are clear.", "Both lungs are clear.", "No focal lung opacity.")
_VIEWS = ("{view} view of the chest.", "{view} chest radiograph.", "Single {view} view.")
_POSITIVE = {
    K.PLEURAL_EFFUSION: (
        "There is a {severity} {side} pleural effusion.",
        "{Severity} {side} pleural effusion.",
    ),
    K.PNEUMOTHORAX: ("There is a {severity} {side} pneumothorax.", "{Severity} {side} pneumothorax."),
    K.CARDIOMEGALY: ("There is {severity} cardiomegaly.", "The heart is {severity}ly enlarged."),
    K.CONSOLIDATION: (
        "There is consolidation in the {side} {zone} zone.",
        "Consolidation is seen in the {side} {zone} zone.",
    ),
    K.PULMONARY_EDEMA: ("There is {severity} pulmonary edema.", "{Severity} pulmonary edema is present."),
    K.ATELECTASIS: (
        "There is plate-like atelectasis at the {side} base.",
        "Linear atelectasis at the {side} base.",
    ),
    K.NODULE: (
        "There is a nodule in the {side} {zone} zone.",
        "A nodule projects over the {side} {zone} zone.",
    ),
    K.MASS: ("There is a mass in the {side} {zone} zone.", "A mass projects over the {side} {zone} zone."),
    K.ENDOTRACHEAL_TUBE: ("An endotracheal tube is in place.", "An endotracheal tube ends above the carina."),
    K.CENTRAL_LINE: (
        "A {side} central venous catheter is in place.",
        "A {side} central venous catheter ends near the superior vena cava.",
    ),
    K.PACEMAKER: ("A {side} pacemaker is in place.", "There is a {side} chest wall pacemaker."),
}


def findings_text(phantom: Phantom) -> str:
    """The findings section of a report of `phantom`; wording varies with its seed, content does not."""
    return write_findings(mentions(phantom), phantom.view, np.random.default_rng((phantom.seed, 5)))


def write_findings(
    stated: Sequence[Mention], view: ViewPosition, rng: np.random.Generator, *, usual: float = 0.0
) -> str:
    """A findings section that states just this.

    Of each sentence's wordings the first is taken with the chance `usual`, 0 to 1, else any.
    """

    def pick(options: Sequence[str]) -> str:
        # Without `usual` nothing more is drawn: the words of every phantom follow from its seed.
        return options[0] if usual and rng.random() < usual else _pick(rng, options)

    def say(*kinds: FindingKind) -> list[str]:
        return [_sentence(pick(_POSITIVE[said.kind]), said) for said in stated if said.kind in kinds]

    sentences = [pick(_VIEWS).format(view=_view_word(view, start=True))]
    sentences[0] = sentences[0].replace("Single Lateral", "Single lateral")
    sentences += say(*_DEVICES)
    heart = say(K.CARDIOMEGALY)
    if not heart and view.is_frontal:
        heart = [pick(_HEART)]
    lungs = say(K.PULMONARY_EDEMA, K.CONSOLIDATION, K.ATELECTASIS, K.NODULE, K.MASS)
    sentences += [*heart, *(lungs or [pick(_CLEAR)]), *say(K.PLEURAL_EFFUSION, K.PNEUMOTHORAX)]
    kinds = {mention.kind for mention in stated}
    absent = [
        NOUNS[k]
        for k in (K.PLEURAL_EFFUSION, K.PNEUMOTHORAX)
        if k not in kinds and (view.is_frontal or k is not K.PNEUMOTHORAX)
    ]
    if absent:
        sentences.append(f"No {' or '.join(absent)}.")
    return " ".join(sentences)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sentence(template: str, mention: Mention) -> str:
    words = {"side": mention.side or "", "severity": mention.severity or "", "zone": mention.zone or ""}
    if mention.side is None and mention.zone is None:
        template = re.sub(r" (in|at|over|projects over) the \{side\} (\{zone\} zone|base)", "", template)
    text = template.format(Severity=words["severity"].capitalize(), **words)
    text = re.sub(r" +", " ", text).strip()
    text = re.sub(
        r"^(A|An|There is a|There is an) (?=[a-z])", lambda m: _article(m[1], text[m.end() :]), text
    )
    return text[0].upper() + text[1:] if text else text


def _article(opening: str, following: str) -> str:
    start = "There is " if opening.startswith("There") else ""
    word = "an" if following[0] in "aeiou" else "a"
    return f"{start}{word if start else word.capitalize()} "


def _view_word(view: ViewPosition, start: bool = False) -> str:
    if view.is_lateral:
        return "Lateral" if start else "lateral"
    return view.value


# --- questions --------------------------------------------------------------------------------------------

_PRESENCE = ("Is there {a}?", "Do you see {a}?", "Does this film show {a}?", "Can you see {a}?")
_SIDE = ("On which side is the {noun}?", "Which side is the {noun} on?")
_ZONE = ("In which zone is the {noun}?", "Where is the {noun}?")
_SEVERITY = {
    K.PLEURAL_EFFUSION: ("How large is the pleural effusion?", "What size is the pleural effusion?"),
    K.PNEUMOTHORAX: ("How large is the pneumothorax?", "What size is the pneumothorax?"),
    K.CARDIOMEGALY: ("How severe is the cardiomegaly?", "How enlarged is the heart?"),
    K.PULMONARY_EDEMA: ("How severe is the pulmonary edema?", "What grade is the pulmonary edema?"),
}
_VIEW = (VIEW_PROMPT, "What is the view?", "Is this a PA, AP or lateral view?")
_DEVICE = ("Are there any support devices?", "Which devices are in place?")
_NORMAL = ("Is this radiograph normal?", "Is there anything abnormal?")


def questions(phantom: Phantom) -> tuple[QuestionAnswer, ...]:
    """Every question that can be asked of `phantom`, each with its true answer; the wording varies."""
    rng = np.random.default_rng((phantom.seed, 6))
    stated = mentions(phantom)
    asked = [QuestionAnswer("view", _pick(rng, _VIEW), f"This is {_a(_view_word(phantom.view))} view.")]
    for kind in K:
        found = tuple(mention for mention in stated if mention.kind is kind)
        asked.append(_presence(rng, kind, found, phantom.view))
        if kind.has_side:
            asked.append(_where(rng, kind, found, phantom.view))
        if kind.severities:
            asked.append(_how_much(rng, kind, found, phantom.view))
    asked.append(_devices(rng, stated))
    asked.append(_normal(rng, stated))
    return tuple(asked)


def _a(words: str) -> str:
    return f"{'an' if words[0].lower() in 'aeiou' or words == 'AP' else 'a'} {words}"


def _noun_phrase(kind: FindingKind) -> str:
    return NOUNS[kind] if kind in _UNCOUNTED else _a(NOUNS[kind])


def _phrase(mention: Mention) -> str:
    """ "a small left pleural effusion", "consolidation in the right upper zone"."""
    before = " ".join(str(word) for word in (mention.severity, mention.side) if word and not mention.zone)
    noun = f"{before} {NOUNS[mention.kind]}".strip()
    where = f" in the {mention.side} {mention.zone} zone" if mention.zone and mention.side else ""
    return (noun if mention.kind in _UNCOUNTED else _a(noun)) + where


def _cannot_tell(kind: FindingKind, view: ViewPosition) -> bool:
    return view.is_lateral and kind.is_frontal_only


def _presence(
    rng: np.random.Generator, kind: FindingKind, found: tuple[Mention, ...], view: ViewPosition
) -> QuestionAnswer:
    question = _pick(rng, _PRESENCE).format(a=_noun_phrase(kind))
    if _cannot_tell(kind, view):
        answer = "That cannot be judged on a lateral view."
    elif found:
        answer = f"Yes, there is {' and '.join(_phrase(mention) for mention in found)}."
    else:
        answer = f"No, there is no {NOUNS[kind]}."
    return QuestionAnswer("presence", question, answer, kind)


def _where(
    rng: np.random.Generator, kind: FindingKind, found: tuple[Mention, ...], view: ViewPosition
) -> QuestionAnswer:
    topic, templates = ("zone", _ZONE) if kind.has_zone and rng.random() < 0.5 else ("side", _SIDE)
    question = _pick(rng, templates).format(noun=NOUNS[kind])
    if view.is_lateral:
        answer = "The side cannot be told on a lateral view."
    elif not found:
        answer = f"There is no {NOUNS[kind]}."
    elif topic == "zone":
        answer = f"In the {' and the '.join(f'{mention.side} {mention.zone} zone' for mention in found)}."
    else:
        answer = f"On the {found[0].side}." if len(found) == 1 else "On both sides."
    return QuestionAnswer(topic, question, answer, kind)


def _how_much(
    rng: np.random.Generator, kind: FindingKind, found: tuple[Mention, ...], view: ViewPosition
) -> QuestionAnswer:
    question = _pick(rng, _SEVERITY[kind])
    if view.is_lateral:
        answer = "That cannot be judged on a lateral view."
    elif not found:
        answer = f"There is no {NOUNS[kind]}."
    elif len(found) == 1:
        answer = f"It is {found[0].severity}."
    else:
        answer = f"It is {' and '.join(f'{mention.severity} on the {mention.side}' for mention in found)}."
    return QuestionAnswer("severity", question, answer, kind)


def _devices(rng: np.random.Generator, stated: tuple[Mention, ...]) -> QuestionAnswer:
    found = [_phrase(mention) for mention in stated if mention.kind in _DEVICES]
    answer = f"Yes, {' and '.join(found)}." if found else "No support devices."
    return QuestionAnswer("devices", _pick(rng, _DEVICE), answer)


def _normal(rng: np.random.Generator, stated: tuple[Mention, ...]) -> QuestionAnswer:
    question = _pick(rng, _NORMAL)
    abnormal = [mention for mention in stated if mention.kind not in _DEVICES]
    if not abnormal:
        return QuestionAnswer("normal", question, "It looks normal.")
    return QuestionAnswer("normal", question, f"It shows {' and '.join(_phrase(m) for m in abnormal)}.")


# --- reading a text back ----------------------------------------------------------------------------------

_KEYWORDS = {
    K.PLEURAL_EFFUSION: r"effusion",
    K.PNEUMOTHORAX: r"pneumothorax",
    K.CARDIOMEGALY: r"cardiomegaly|heart is \w+ enlarged",
    K.CONSOLIDATION: r"consolidation",
    K.PULMONARY_EDEMA: r"edema",
    K.ATELECTASIS: r"atelectasis",
    K.NODULE: r"nodule",
    K.MASS: r"\bmass\b",
    K.ENDOTRACHEAL_TUBE: r"endotracheal tube",
    K.CENTRAL_LINE: r"central venous catheter",
    K.PACEMAKER: r"pacemaker",
}
_Place = TypeVar("_Place", Side, Zone)
_NEGATION = re.compile(r"\b(no|not|without|normal|cannot)\b")
_VIEW_NAMES = re.compile(r"\b(pa|ap|lateral)\b(?= (view|chest))")


def read_report(text: str) -> ReadReport:
    """The positive statements of a findings text or an answer; a negated clause mentions nothing."""
    found: list[Mention] = []
    for clause in re.split(r"[.;]| and (?=an? |\w+ (?:left|right) )", text.lower()):
        if _NEGATION.search(clause):
            continue
        for kind, pattern in _KEYWORDS.items():
            if re.search(pattern, clause):
                found.append(Mention(kind, _first(Side, clause), _grade(kind, clause), _first(Zone, clause)))
    named = _VIEW_NAMES.search(text.lower())
    return ReadReport(tuple(dict.fromkeys(found)), ViewPosition(named[1].upper()) if named else None)


def _first(kind: type[_Place], clause: str) -> _Place | None:
    return next((value for value in kind if re.search(rf"\b{value}\b", clause)), None)


def _grade(kind: FindingKind, clause: str) -> Severity | None:
    return next((grade for grade in kind.severities if re.search(rf"\b{grade}(ly)?\b", clause)), None)
