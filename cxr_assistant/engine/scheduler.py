"""Many answers from one model: a step reads on in a prompt and adds a token to every running answer.

Knows slots, order and the rules of an answer's end; must not know text or checkpoints. No thread of its own:
whoever wants the next thing of a stream advances all of them by a step, under a lock that no `yield` crosses.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from cxr_assistant.engine.cache import FOR_ALL, EmbeddingCache
from cxr_assistant.engine.graph import make_decoder
from cxr_assistant.engine.limits import Limits, make_slots, prefill_chunk, prefix_bytes
from cxr_assistant.engine.memory import memory_guard
from cxr_assistant.engine.prefixes import PrefixStore, num_common, prompt_keys
from cxr_assistant.engine.sampling import Sampler, Token, choose
from cxr_assistant.engine.stream import News, Stream
from cxr_assistant.errors import Busy
from cxr_assistant.generation import FinishReason, Prefilled, Queued
from cxr_assistant.models.vlm import Piece, VisionLanguageModel

__all__ = ["Scheduler"]

ALONE = 4
"""A prompt is read in pieces so many times as large while no other answer is being made: only its own cancel
waits for them."""

SHARED_BYTES = 6 * 2**20
"""Keys and values that a step must be spared before it attends to what its answers share by itself: two
attentions and their sum cost more calls than one."""


class Scheduler:
    """Slots of one model, shared in fair order: a visitor's second request waits for everybody's first."""

    def __init__(self, model: VisionLanguageModel, limits: Limits) -> None:
        """Allocates the slots and records the decode steps. Raises OutOfMemory."""
        self._model, self._limits = model, limits
        self._embeddings = EmbeddingCache(limits.embedding_bytes)
        with memory_guard("the slots of its answers"):
            self._kv_cache = make_slots(model, limits.max_slots)
            self._decoder = make_decoder(model, self._kv_cache)
        kept_bytes = limits.prefix_bytes
        self._prefixes = PrefixStore(prefix_bytes(model) if kept_bytes is None else kept_bytes)
        self._chunk = limits.prefill_chunk or prefill_chunk(model)
        self._stepping = Lock()  # held during one step, never across a yield
        self._counting = Lock()
        self._num_open = self._num_arrived = 0
        self._arrivals: deque[Stream] = deque()
        self._forgotten: deque[str] = deque()
        self._waiting: list[Stream] = []
        self._active: list[Stream] = []  # in the order in which they got their slots
        self._sharing: tuple[list[Stream], int] = [], 0  # who wrote at the last step, and what they share

    # ------------------------------------------------------------------------------- what anybody may call

    def submit(self, stream: Stream) -> None:
        """Put a stream into the queue. Raises Busy."""
        if self._is_full:
            self._end_withdrawn(patience_s=0.1)
        with self._counting:
            if self._is_full:
                raise Busy(
                    f"{self._limits.max_waiting} questions wait already; no more are taken.",
                    hint="Ask again in a minute.",
                )
            self._num_open += 1
            self._num_arrived += 1
            stream.arrival = self._num_arrived
        self._arrivals.append(stream)

    def pull(self, stream: Stream) -> News | None:
        """The next news of a stream; None when a step was taken that brought it none."""
        if not stream.news:
            with self._stepping:
                if not stream.news:  # else another reader's step brought some
                    self._step()
        return stream.news.popleft() if stream.news else None

    def withdraw(self, stream: Stream) -> None:
        """Nobody reads this stream any more; its slot is free now, or after the step that is under way."""
        stream.is_withdrawn = True
        if not stream.has_ended:
            self._end_withdrawn()

    def forget(self, session: str) -> None:
        """Free what is kept for a session: now, or when the step that is under way has ended."""
        self._forgotten.append(session)
        if self._stepping.acquire(blocking=False):
            try:
                self._forget_sessions()
            finally:
                self._stepping.release()

    # ---------------------------------------------------------------------------------------- one step

    @torch.inference_mode()
    def _step(self) -> None:
        self._end_cancelled()
        self._forget_sessions()
        self._admit()
        reading = self._next_readers()
        if reading and self._shares_passes and self._read_beside(reading):
            return
        if reading:
            self._attempt(reading[0])
        self._decode()

    @torch.inference_mode()
    def _end_withdrawn(self, patience_s: float = 0.0) -> None:
        if self._stepping.acquire(timeout=patience_s):
            try:
                self._end_cancelled()
            finally:
                self._stepping.release()

    def _end_cancelled(self) -> None:
        while self._arrivals:
            self._waiting.append(self._arrivals.popleft())
        for stream in [*self._waiting, *self._active]:
            if stream.wants_to_end:
                self._end(stream, FinishReason.CANCELLED)

    def _admit(self) -> None:
        """Slots to those who wait, the lowest first, so that the batch stays dense."""
        self._waiting = _in_fair_order(self._waiting, self._active)
        taken = {stream.slot for stream in self._active}
        free = (slot for slot in range(self._kv_cache.num_slots) if slot not in taken)
        while self._waiting and (slot := next(free, None)) is not None:
            stream = self._waiting.pop(0)
            stream.slot, stream.position = slot, 0
            self._active.append(stream)
        for position, stream in enumerate(self._waiting, start=1):
            if stream.position != position:
                stream.position = position
                stream.news.append(Queued(position))

    def _attempt(self, stream: Stream) -> None:
        """Take a stream one piece further; what goes wrong is raised where this stream is read."""
        try:
            with memory_guard():
                self._read_a_piece(stream)
        except Exception as error:
            self._end(stream, error)

    def _next_readers(self) -> list[Stream]:
        """Whose prompt a step goes on with: the first in line, and more whose rest is short and in words."""
        readers: list[Stream] = []
        room = self._chunk
        for stream in list(self._active):  # one that cannot begin leaves it
            if stream.is_running or not self._has_begun(stream):
                continue
            length = self._kv_cache.lengths[stream.slot]
            room -= len(stream.prompt) - length
            if readers and (room < 0 or self._sees_anew(stream, length)):
                break
            readers.append(stream)
            if room < 0 or not self._shares_passes:
                break
        return readers

    def _sees_anew(self, stream: Stream, length: int) -> bool:
        """True where a picture must be looked at before the rest of the prompt can be read."""
        unread = zip(stream.embeds, stream.prompt.image_spans, strict=True)
        return any(embeds is None and span.stop > length for embeds, span in unread)

    def _read_beside(self, readers: Sequence[Stream]) -> bool:
        """Pieces of prompts and a token for all who write in one pass, which reads the weights once.

        False where one prompt is all there is, or where it went wrong: then each is done by itself, and only
        who cannot go on is told.
        """
        running = self._running
        if not running and len(readers) == 1:
            return False
        newest, slots = [s.token_ids[-1] for s in running], [s.slot for s in running]
        lengths = list(self._kv_cache.lengths)
        try:
            with memory_guard():
                pieces = [Piece(s.prompt, s.embeds, s.slot, self._next_stop(s)) for s in readers]
                token_ids = torch.tensor(newest, dtype=torch.int64, device=self._model.device)
                read, logits = self._model.prefill_and_decode(pieces, token_ids, self._kv_cache, slots)
                tokens = choose(logits, [s.sampler for s in running]) if running else []
        except Exception:  # whose fault it is shows when each is done by itself
            self._kv_cache.lengths[:] = lengths
            return False
        for stream, piece, row in zip(readers, pieces, read, strict=True):
            try:
                self._take_in(stream, piece.stop, row[None])
            except Exception as error:
                self._end(stream, error)
        for writing, token in zip(running, tokens, strict=True):
            self._hear(writing, token)
        return True

    def _read_a_piece(self, stream: Stream) -> None:
        """Look at the pictures of one chunk, and read it; the last chunk gives the first token."""
        stop = self._next_stop(stream)
        logits = self._model.prefill(
            stream.prompt, stream.embeds, self._kv_cache, stop=stop, slot=stream.slot
        )
        self._take_in(stream, stop, logits)

    def _next_stop(self, stream: Stream) -> int:
        """How far the next piece goes, its pictures looked at."""
        length, prompt = self._kv_cache.lengths[stream.slot], stream.prompt
        stop = min(length + self._chunk * (ALONE if len(self._active) == 1 else 1), len(prompt))
        for index, span in enumerate(prompt.image_spans):
            if stream.embeds[index] is None and length < span.stop and span.start < stop:
                stream.embeds[index] = self._embed(stream, index)
        return stop

    def _take_in(self, stream: Stream, stop: int, logits: Tensor) -> None:
        """The first token, where the piece was the last one."""
        if stop == len(stream.prompt):
            token = choose(logits, [stream.sampler])[0]
            stream.embeds = []
            stream.news.append(Prefilled(len(stream.prompt), stream.reused))
            self._hear(stream, token)

    def _has_begun(self, stream: Stream) -> bool:
        """What was kept for it is in its slot; False where that went wrong, which it is told."""
        try:
            with memory_guard():
                if stream.keys is None:
                    self._begin(stream)
        except Exception as error:
            self._end(stream, error)
            return False
        return True

    def _begin(self, stream: Stream) -> None:
        stream.keys = prompt_keys(stream.prompt)
        stream.sampler = Sampler(stream.params, self._model.device)
        stream.embeds = [None] * len(stream.prompt.image_spans)
        if stream.session is not None:
            stream.reused = self._prefixes.load(stream.session, stream.keys, self._kv_cache, stream.slot)

    def _embed(self, stream: Stream, index: int) -> Tensor:
        """(P, D) of one picture, encoded unless it came with the question, or is remembered for this visitor
        or for all."""
        digest = stream.prompt.digests[index]
        session = FOR_ALL if digest in stream.public else stream.session
        found = None if session is None else self._embeddings.get(session, digest)
        if found is None:
            found = stream.seen.get(digest)
            if found is None:
                found = self._model.encode(stream.prompt.pixel_values[index : index + 1])[0]
            if session is not None:
                self._embeddings.put(session, digest, found)
        return found

    def _decode(self) -> None:
        """One more token for every stream whose prompt is read."""
        running = self._running
        if not running:
            return
        try:
            with memory_guard():
                newest, slots = [s.token_ids[-1] for s in running], [s.slot for s in running]
                decoded = self._decoder.step(newest, slots, self._num_shared(running))
                tokens = choose(decoded.logits, [stream.sampler for stream in running], decoded.greedy)
        except Exception as error:
            for stream in running:
                self._end(stream, error)
            return
        for stream, token in zip(running, tokens, strict=True):
            self._hear(stream, token)

    def _num_shared(self, running: list[Stream]) -> int:
        """Leading positions that one visitor's answers hold alike; 0 where they are too few to matter."""
        if running != self._sharing[0]:  # mostly they are the same ones as a step ago
            self._sharing = running, self._count_shared(running)
        return self._sharing[1]

    def _count_shared(self, running: list[Stream]) -> int:
        sessions = {stream.session for stream in running}
        if not self._decoder.is_eager or len(running) == 1 or len(sessions) > 1 or None in sessions:
            return 0
        num_shared = num_common([stream.keys for stream in running if stream.keys is not None])
        spared = num_shared * (len(running) - 1) * self._model.kv_shape.bytes_per_token
        return num_shared if spared >= SHARED_BYTES else 0

    def _hear(self, stream: Stream, token: Token) -> None:
        stream.token_ids.append(token.token_id)
        stream.news.append(token)
        if token.token_id in self._model.processor.stop_token_ids:
            self._end(stream, FinishReason.STOP)
        elif len(stream.token_ids) == stream.max_new_tokens:
            self._end(stream, FinishReason.LENGTH)

    def _end(self, stream: Stream, last_news: FinishReason | Exception) -> None:
        """Free the slot and keep what was read in it for the visitor's next question."""
        stream.has_ended = True
        if stream in self._waiting:
            self._waiting.remove(stream)
        if stream in self._active:
            self._active.remove(stream)
            if isinstance(last_news, FinishReason):
                self._keep(stream)
            self._kv_cache.truncate(0, slot=stream.slot)  # a step looks as far as the longest of its rows
        stream.embeds, stream.seen = [], {}  # what has ended is held by its reader alone
        self._sharing = [], 0
        stream.news.append(last_news)
        with self._counting:
            self._num_open -= 1

    def _keep(self, stream: Stream) -> None:
        if stream.session is None or stream.keys is None:
            return
        read = np.concatenate((stream.keys, np.array(stream.token_ids, np.int64)))
        length = self._kv_cache.lengths[stream.slot]  # the newest token was not read
        if length:
            self._prefixes.save(stream.session, read[:length], self._kv_cache, stream.slot)

    def _forget_sessions(self) -> None:
        while self._forgotten:
            session = self._forgotten.popleft()
            for stream in (*self._arrivals, *self._waiting, *self._active):
                if stream.session == session:
                    stream.session = None  # what it still reads is not kept either
            self._prefixes.forget(session)
            self._embeddings.forget(session)
            self._sharing = [], 0

    @property
    def _shares_passes(self) -> bool:
        """False where prompts and tokens of others are computed one after the other in any case."""
        return self._decoder.is_eager and self._model.reads_together

    @property
    def _running(self) -> list[Stream]:
        """Those whose prompt is read, by their slots."""
        return sorted((s for s in self._active if s.is_running), key=lambda s: s.slot)

    @property
    def _is_full(self) -> bool:
        return self._num_open >= self._kv_cache.num_slots + self._limits.max_waiting


def _in_fair_order(waiting: list[Stream], active: list[Stream]) -> list[Stream]:
    """First come, first served, but nobody's second request before another one's first."""
    num_before = Counter(stream.session for stream in active)
    rounds: dict[Stream, int] = {}
    for stream in sorted(waiting, key=lambda s: s.arrival):
        rounds[stream] = 0 if stream.session is None else num_before[stream.session]
        num_before[stream.session] += 1
    return sorted(rounds, key=rounds.__getitem__)
