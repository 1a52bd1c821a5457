"""Write the example studies anew: `python examples/make_examples.py`. Every film here is computed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cxr_assistant.imaging.phantom import (  # noqa: E402
    FindingKind,
    FindingRequest,
    Severity,
    Side,
    Zone,
    dicom_bytes,
    make_phantom,
    png_bytes,
)
from cxr_assistant.study import ViewPosition  # noqa: E402

K, V = FindingKind, ViewPosition
SIZE_PX = 640
STUDIES: dict[str, tuple[int, tuple[FindingRequest, ...], tuple[tuple[ViewPosition, str], ...]]] = {
    "Normal chest, PA": (101, (), ((V.PA, "dcm"),)),
    "Effusion, PA": (
        102,
        (FindingRequest(K.PLEURAL_EFFUSION, Side.LEFT, Severity.MODERATE),),
        ((V.PA, "dcm"),),
    ),
    "Pneumothorax, PA": (
        103,
        (FindingRequest(K.PNEUMOTHORAX, Side.RIGHT, Severity.MODERATE),),
        ((V.PA, "png"),),
    ),
    "Intensive care, AP": (
        104,
        (
            FindingRequest(K.ENDOTRACHEAL_TUBE),
            FindingRequest(K.CENTRAL_LINE, Side.RIGHT),
            FindingRequest(K.PULMONARY_EDEMA, severity=Severity.SEVERE),
        ),
        ((V.AP, "dcm"),),
    ),
    "Consolidation, PA and lateral": (
        105,
        (FindingRequest(K.CONSOLIDATION, Side.RIGHT, zone=Zone.LOWER),),
        ((V.PA, "dcm"), (V.LATERAL, "dcm")),
    ),
}


def main() -> None:
    listing = {}
    for title, (seed, findings, films) in STUDIES.items():
        names = []
        for view, kind in films:
            phantom = make_phantom(seed, findings=findings, view=view, size_px=SIZE_PX)
            name = f"{title.split(',')[0].lower().replace(' ', '-')}-{view.value.lower()}.{kind}"
            (HERE / name).write_bytes(dicom_bytes(phantom) if kind == "dcm" else png_bytes(phantom))
            names.append(name)
        listing[title] = names
    (HERE / "studies.json").write_text(json.dumps(listing, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
