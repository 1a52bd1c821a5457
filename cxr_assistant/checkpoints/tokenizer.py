"""Text <-> ids of a converted folder, and SentencePiece models turned into its `tokenizer.json`.

Knows vocabularies; must not know prompts. Nothing that a person types is ever read as a special token.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_assistant.errors import CorruptWeights, MissingWeights, WeightsMismatch

__all__ = ["FolderTokenizer", "convert_sentencepiece"]

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
_PROBES = (
    "USER: ",
    "\nProvide a description of the findings in the radiology image. ASSISTANT:",
    "  two  spaces, a tab\tand 3.4 cm (left > right); é µ ✓ ___",
    "No pneumothorax or pleural effusion.",
)


def _one_per_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\N{REPLACEMENT CHARACTER}" * (error.end - error.start), error.end


codecs.register_error("one-per-byte", _one_per_byte)


class FolderTokenizer:
    """The `tokenizer.json` of a folder."""

    def __init__(self, directory: Path) -> None:
        from tokenizers import Tokenizer

        path = directory / "tokenizer.json"
        if not path.is_file():
            raise MissingWeights(
                f"No tokenizer.json in {directory.name}.", hint="Convert the checkpoint again."
            )
        self._tokenizer = Tokenizer.from_file(str(path))
        # Special tokens written by a person stay plain text; `render` puts the real ones by id.
        self._tokenizer.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._has_byte_pieces = self._tokenizer.token_to_id("<0x0A>") is not None
        self._strips_first_space = self._tokenizer.decode(self.encode("x y")) == "x y" and (
            (self._tokenizer.id_to_token(self.encode("x")[0]) or "").startswith("▁")
        )

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is added, nothing is recognised as special."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, special tokens left out; each byte that is no UTF-8 becomes one U+FFFD."""
        if not self._has_byte_pieces:
            text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
            return text
        # The library turns a whole run of byte pieces into U+FFFD when its end is incomplete, so that text
        # already shown would change; SentencePiece itself does not.
        raw = b"".join(self._piece_bytes(i) for i in token_ids if i not in self._special_ids)
        return raw.decode("utf-8", errors="one-per-byte").removeprefix(" " * self._strips_first_space)

    def _piece_bytes(self, token_id: int) -> bytes:
        piece = self._tokenizer.id_to_token(token_id) or ""
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()

    def id_of(self, token: str) -> int:
        """The id of one entry, such as "</s>"; raises WeightsMismatch if there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise WeightsMismatch(f"The tokenizer has no {token!r}.", hint="Convert the checkpoint again.")
        return found


def convert_sentencepiece(model_file: Path, target: Path, *, image_token: str) -> None:
    """Write `tokenizer.json` for a SentencePiece BPE model, with `image_token` as its last entry.

    The dummy prefix is put before every piece of text (what transformers calls `legacy=True`), because
    the papers' code tokenises the pieces around an image one by one. Raises WeightsMismatch if any probe
    sentence gets other ids than from SentencePiece itself.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(model_file))
    except (RuntimeError, OSError) as error:
        raise CorruptWeights(
            f"{model_file.name} is no SentencePiece model.", hint="Fetch it again."
        ) from error
    tokenizer = _as_fast_tokenizer(model, image_token)
    for probe in _PROBES:
        if tokenizer.encode(probe, add_special_tokens=False).ids != model.encode(probe):
            raise WeightsMismatch(f"{model_file.name} gives other ids after conversion for {probe!r}.")
    tokenizer.save(str(target))


def _as_fast_tokenizer(model: Any, image_token: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    prepends = model.encode("x", out_type=str)[0].startswith("▁")
    tokenizer = Tokenizer(
        BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=_merges(pieces, [model.get_score(i) for i in range(len(pieces))]),
            unk_token=pieces[model.unk_id()],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps = [normalizers.Prepend("▁")] if prepends else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(content=" ", left=1)] if prepends else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    special = [p for i, p in enumerate(pieces) if model.is_control(i) or model.is_unknown(i)]
    tokenizer.add_special_tokens(
        [AddedToken(p, normalized=False, special=True) for p in [*special, image_token]]
    )
    return tokenizer


def _merges(pieces: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """BPE merges in order of the merged piece's score, as SentencePiece itself joins pieces."""
    rank = {piece: i for i, piece in enumerate(pieces)}
    found = [
        (-score, rank[piece[:cut]], rank[piece[cut:]], (piece[:cut], piece[cut:]))
        for piece, score in zip(pieces, scores, strict=True)
        for cut in range(1, len(piece))
        if piece[:cut] in rank and piece[cut:] in rank
    ]
    return [pair for *_, pair in sorted(found)]
