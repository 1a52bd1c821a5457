"""What is kept is what was put in, shared where it agrees, bounded, and nobody else's."""

from __future__ import annotations

import random
from itertools import takewhile

import numpy as np
import pytest
import torch

from cxr_assistant.engine.prefixes import Keys, PrefixStore, prompt_keys
from cxr_assistant.models.kv_cache import KVCache, KVShape
from cxr_assistant.models.vlm import ImageSpan, Prompt

SHAPE = KVShape(num_layers=2, num_heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))
TOKEN = SHAPE.bytes_per_token


def keys_of(text: str) -> Keys:
    return np.array([ord(letter) for letter in text], np.int64)


def cache_of(text: str) -> KVCache:
    """A slot whose states say which letter stands at each position, as computing them would."""
    cache = KVCache(SHAPE, 64)
    if text:
        letters = torch.tensor([float(ord(letter)) for letter in text])
        cache.append(0, letters[None, None, None, :, None].expand(2, 2, 1, len(text), 2))
    return cache


def save(store: PrefixStore, text: str, session: str = "anna") -> None:
    store.save(session, keys_of(text), cache_of(text), 0)


def load(store: PrefixStore, text: str, session: str = "anna") -> str:
    """What comes back, read off the states themselves."""
    cache = KVCache(SHAPE, 64)
    length = store.load(session, keys_of(text), cache, 0)
    assert cache.lengths == [length]
    return "".join(chr(int(value)) for value in cache.memory[1, 1, 0, 0, :length, 1].tolist())


def test_the_longest_common_beginning_comes_back() -> None:
    store = PrefixStore(1 << 20)
    for text in ("image question answer", "image question other", "image more"):
        save(store, text)
    assert load(store, "image question answer and more") == "image question answer"
    assert load(store, "image question open") == "image question o"
    assert load(store, "image!") == "image"
    assert load(store, "nothing") == ""


def test_the_last_position_is_left_to_compute() -> None:
    store = PrefixStore(1 << 20)
    save(store, "abc")
    assert load(store, "abc") == "ab"


def test_what_agrees_is_kept_once() -> None:
    store = PrefixStore(1 << 20)
    for text in ("image one", "image two", "image one"):
        save(store, text)
    assert store.num_bytes == len("image one" + "two") * TOKEN


def test_a_visitor_never_meets_what_another_one_asked() -> None:
    store = PrefixStore(1 << 20)
    save(store, "image one", "anna")
    assert load(store, "image one", "boris") == ""


def test_a_forgotten_visitor_leaves_no_bytes() -> None:
    store = PrefixStore(1 << 20)
    save(store, "image one", "anna")
    save(store, "image two", "boris")
    store.forget("anna")
    assert store.num_bytes == len("image two") * TOKEN
    assert load(store, "image one") == ""
    store.forget("nobody")


def test_the_least_recently_used_leaf_goes_first() -> None:
    store = PrefixStore(len("image a1b2") * TOKEN)
    save(store, "image a1")
    save(store, "image b2")
    load(store, "image a1!")
    save(store, "image c3")
    assert load(store, "image a1!") == "image a1"
    assert load(store, "image c3!") == "image c3"
    assert load(store, "image b2!") == "image "


def test_a_prefix_larger_than_the_bound_is_not_kept() -> None:
    store = PrefixStore(3 * TOKEN)
    save(store, "abcd")
    assert (store.num_bytes, load(store, "abcd")) == (0, "")


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_saves_loads_and_losses(seed: int) -> None:
    rng = random.Random(seed)
    bound = rng.choice((10, 40, 10_000)) * TOKEN
    store, saved = PrefixStore(bound), {"anna": [""], "boris": [""]}
    for _ in range(60):
        session = rng.choice(("anna", "boris"))
        asked = "".join(rng.choices("ab", k=rng.randint(1, 5)))
        text = rng.choice(saved[session])[: rng.randint(0, 12)] + asked
        found = load(store, text, session)
        assert text.startswith(found)
        longest = max(_num_common(text[:-1], other) for other in saved[session])
        assert len(found) <= longest
        assert bound < 10_000 * TOKEN or len(found) == longest
        save(store, text, session)
        saved[session].append(text)
        assert 0 <= store.num_bytes <= bound
        if rng.random() < 0.05:
            store.forget(session)
            saved[session] = [""]


def _num_common(one: str, other: str) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def test_positions_of_a_picture_are_told_by_its_digest_and_their_place() -> None:
    def keys(digest: str) -> Keys:
        pixels = np.zeros((1, 1, 2, 2), np.float32)
        return prompt_keys(Prompt((1, 0, 0, 0, 7), (ImageSpan(1, 3),), pixels, (digest,)))

    assert keys("a").tolist() == keys("a").tolist()
    assert len(set(keys("a").tolist() + keys("b").tolist())) == 2 + 3 + 3
    assert (keys("a")[1:4] < 0).all()
