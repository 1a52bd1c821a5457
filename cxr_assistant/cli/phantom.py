"""`phantom`: compute a synthetic patient with known findings, and write the film and its truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console
from cxr_assistant.errors import PhantomError, SettingsError

if TYPE_CHECKING:
    from cxr_assistant.imaging.phantom import FindingRequest, Phantom
    from cxr_assistant.study import ViewPosition

__all__ = ["add_command", "parse_finding", "truth_of"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "phantom", run, "Compute a synthetic chest radiograph with known findings.")
    parser.add_argument(
        "--finding",
        action="append",
        metavar="KIND[:SIDE][:SEVERITY][:ZONE]",
        help="such as pleural-effusion:left:small, or none; may be repeated; drawn by chance when not given",
    )
    parser.add_argument("--view", metavar="VIEW", help="PA, AP or LATERAL; drawn by chance when not given")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same patient (default: 0)"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="PIXELS", help="height of the film (default: 512)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the film; .png, otherwise DICOM")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.imaging.phantom import make_phantom

    phantom = make_phantom(
        arguments.seed,
        findings=_findings(arguments.finding),
        view=_view(arguments.view),
        size_px=arguments.size,
    )
    if arguments.out:
        _write(phantom, arguments.out)
    truth = truth_of(phantom)
    written = {"out": str(arguments.out) if arguments.out else None}
    console.result({"status": "ok", **written, **truth}, _as_text(truth))
    return 0


def parse_finding(text: str) -> FindingRequest:
    """The request written as KIND[:SIDE][:SEVERITY][:ZONE], the parts after the kind in any order."""
    from cxr_assistant.imaging.phantom import FindingKind, FindingRequest, Severity, Side, Zone

    name, *parts = text.split(":")
    if name not in set(FindingKind):
        raise PhantomError(f"Unknown finding {name!r}; allowed: none, {', '.join(FindingKind)}.")
    chosen: dict[str, Any] = {}
    for part in parts:
        field, value = next(
            ((kind.__name__.lower(), kind(part)) for kind in (Side, Severity, Zone) if part in set(kind)),
            ("", None),
        )
        if not field or field in chosen:
            allowed = ", ".join([*Side, *Severity, *Zone])
            raise PhantomError(f"{part!r} says nothing more about a finding; allowed, once each: {allowed}.")
        chosen[field] = value
    return FindingRequest(FindingKind(name), **chosen)


def truth_of(phantom: Phantom) -> dict[str, Any]:
    """The documented keys of a phantom's truth."""
    return {
        "seed": phantom.seed,
        "view": phantom.view.value,
        "findings": [
            {
                "kind": finding.kind.value,
                "side": finding.side.value if finding.side else None,
                "severity": finding.severity.value if finding.severity else None,
                "zone": finding.zone.value if finding.zone else None,
                "is_visible": finding.is_visible,
                "box": finding.box.as_dict() if finding.box else None,
            }
            for finding in phantom.findings
        ],
        "report": phantom.report,
        "questions": [{"question": q.question, "answer": q.answer} for q in phantom.questions],
    }


def _findings(texts: list[str] | None) -> list[FindingRequest] | None:
    if texts is None:
        return None
    if "none" not in texts:
        return [parse_finding(text) for text in texts]
    if set(texts) != {"none"}:
        raise PhantomError(
            "--finding none stands for a chest without findings; others were given as well.",
            hint="Leave out one or the other.",
        )
    return []


def _view(name: str | None) -> ViewPosition | None:
    from cxr_assistant.study import ViewPosition

    if name is None:
        return None
    try:
        return ViewPosition(name.upper())
    except ValueError as error:
        raise PhantomError(f"The view is {name!r}; allowed: PA, AP, LATERAL.") from error


def _write(phantom: Phantom, out: Path) -> None:
    from cxr_assistant.imaging.phantom import dicom_bytes, png_bytes

    content = png_bytes(phantom) if out.suffix.lower() == ".png" else dicom_bytes(phantom)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise SettingsError("The file given with --out cannot be written.", hint="Choose another.") from error


def _as_text(truth: dict[str, Any]) -> str:
    findings = [
        " ".join(filter(None, (f["severity"], f["side"], f["zone"], f["kind"].replace("-", " "))))
        + ("" if f["is_visible"] else " (hidden in this view)")
        for f in truth["findings"]
    ]
    return f"{truth['view']}, seed {truth['seed']}: {'; '.join(findings) or 'no finding'}\n{truth['report']}"
