"""Tokenizers of a given size that encode any text and give it back: for random weights only.

Knows the file formats of SentencePiece and of GPT-2's byte-level BPE; the pieces mean nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path

__all__ = ["ADDED_TOKENS", "write_byte_level_bpe", "write_sentencepiece"]

_ALPHABET = "etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789.,:;-()/'\"?!"

# CheXagent's added tokens in their order: runs of spaces and tabs, then the format's own.
ADDED_TOKENS = (
    *(" " * n for n in range(31, 1, -1)),
    *("\t" * n for n in range(9, 1, -1)),
    *("<|img|>", "<|/img|>", "<|imgpad|>", "<|ref|>", "<|/ref|>", "<|box|>", "<|/box|>"),
    *("<|quad|>", "<|/quad|>"),
    *(f"<|coord_{n}|>" for n in range(10)),
    *(f"<|extra_{n}|>" for n in range(54)),
)


def write_sentencepiece(path: Path, size: int) -> None:
    """A SentencePiece BPE model of `size` entries: three controls, 256 bytes, letters, runs of letters.

    Written in protocol buffer wire format (sentencepiece_model.proto), as the schema needs one more package.
    """
    entries = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    entries += [(f"<0x{value:02X}>", 0.0, _BYTE) for value in range(256)]
    room = range(size - len(entries))
    entries += [(piece, -float(rank), _NORMAL) for rank, piece in zip(room, _pieces(), strict=False)]
    pieces = b"".join(
        _message(1, _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind))
        for text, score, kind in entries
    )
    trainer = _message(2, _number(3, _BPE) + _number(4, size) + _number(35, 1))  # 35: byte_fallback
    normalizer = _message(3, _message(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1))
    path.write_bytes(pieces + trainer + normalizer)


_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


def _varint(value: int) -> bytes:
    low = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return low + _varint(value >> 7) if value > 0x7F else low


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def write_byte_level_bpe(folder: Path, size: int) -> None:
    """vocab.json, merges.txt, added_tokens.json and tokenizer_config.json, as CheXagent saves them."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    pairs = [(a, b) for a, b in product(alphabet, repeat=2)][: size - len(alphabet) - 1]
    entries = [*alphabet, *(a + b for a, b in pairs), "<|endoftext|>"]
    end = len(entries) - 1
    added = {token: end + 1 + i for i, token in enumerate(ADDED_TOKENS)}
    decoder = {str(end): _added_token("<|endoftext|>")} | {str(i): _added_token(t) for t, i in added.items()}
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs)
    (folder / "merges.txt").write_text(merges, "utf-8")
    for name, content in {
        "vocab.json": {entry: i for i, entry in enumerate(entries)},
        "added_tokens.json": added,
        "tokenizer_config.json": {"add_bos_token": False, "added_tokens_decoder": decoder},
    }.items():
        (folder / name).write_text(json.dumps(content), "utf-8")


def _added_token(text: str) -> dict[str, object]:
    is_special = text.startswith("<|")
    return {"content": text, "special": is_special, "normalized": not is_special}


def _pieces() -> Iterator[str]:
    """Letters, then runs of two and three; a run's parts always come before it."""
    for length in (1, 2, 3):
        yield from ("".join(letters) for letters in product("▁" + _ALPHABET, repeat=length))
