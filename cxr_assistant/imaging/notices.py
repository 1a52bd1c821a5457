"""The reader's remarks for the person, each a fixed sentence under a stable id.

Knows wording only; a remark never holds anything from a file.
"""

from __future__ import annotations

__all__ = ["NOTICE_IDS"]

SECONDARY_CAPTURE = "Secondary capture: this is a copy of a film, its gray scale may have been changed."
OTHER_MODALITY = "The file says 'other' (OT) as its modality; make sure that it is a radiograph."
BURNED_IN = (
    "The file says that text is burned into the picture: it may show patient data, and sway the answer."
)
MAYBE_BURNED_IN = (
    "The picture seems to contain text: make sure that it shows no patient data; it can sway the answer."
)
OTHER_BODY_PART = "The file says that it does not show the chest; this assistant reads chest radiographs."
MIRRORED = "Patient Orientation says that the film is mirrored: its left is the patient's left."
INVALID_WINDOW = "A window in the file is invalid and was not used."
COLOUR = "The picture has colour, perhaps a photo of a screen; it was read in gray."
DEEP_COLOUR = "16-bit colour was reduced to 8 bits."
SMALL = "The picture is small: fine findings cannot be seen at this size."

NOTICE_IDS = {
    SECONDARY_CAPTURE: "secondary_capture",
    OTHER_MODALITY: "other_modality",
    BURNED_IN: "burned_in",
    MAYBE_BURNED_IN: "maybe_burned_in",
    OTHER_BODY_PART: "other_body_part",
    MIRRORED: "mirrored",
    INVALID_WINDOW: "invalid_window",
    COLOUR: "colour",
    DEEP_COLOUR: "deep_colour",
    SMALL: "small",
}
