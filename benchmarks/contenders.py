"""Three ways from a prompt to text on the same weights: a demo's, the library's best, and this engine.

Knows how each is called; must not know what is measured. transformers' classes are put together around the
modules of our model, so that no weight exists twice and none differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.sampling import Token
from cxr_assistant.generation import Completed, GenerationEvent, SamplingParams, TextDelta
from cxr_assistant.models.llava import StockLlava, make_empty
from cxr_assistant.models.vlm import Prompt

__all__ = ["Answered", "Contender", "Demo", "Library", "Ours", "Question"]


class Question(NamedTuple):
    """What is asked, and by whom; `session` None: a stranger, for whom nothing is kept or used again.

    is_public: the film is one that everybody may see, such as an example; its embeddings are kept for all.
    """

    prompt: Prompt
    session: str | None = None
    is_public: bool = False


class Answered(NamedTuple):
    """Seconds to the first token, seconds from there to the last, tokens in between, and the text."""

    first_s: float
    rest_s: float
    num_rest: int
    text: str

    @property
    def token_s(self) -> float:
        return self.rest_s / self.num_rest


class Contender(Protocol):
    name: str
    remark: str

    def token_ids(self, prompt: Prompt, num_tokens: int) -> list[int]: ...

    def answer(self, question: Question, num_tokens: int) -> Answered: ...


class _Transformers:
    """`generate()` around the modules of our model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.takes_pixels = isinstance(model, StockLlava)
        self.causal = _assemble_llava(model) if self.takes_pixels else _assemble_decoder(model)

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """Ids with markers and the picture for a LLaVA; embeddings for families that transformers lacks."""
        if not self.takes_pixels:
            embeds = [self.model.encode(picture[None])[0] for picture in prompt.pixel_values]
            whole = self.model._prompt_embeds(prompt, embeds, 0, len(prompt))
            return {"inputs_embeds": whole, "attention_mask": torch.ones(whole.shape[:2]).to(whole.device)}
        token_ids = torch.tensor([prompt.token_ids], device=self.model.device)
        for span in prompt.image_spans:
            token_ids[:, span.start : span.stop] = self.causal.config.image_token_id
        given = {"input_ids": token_ids, "attention_mask": torch.ones_like(token_ids)}
        if prompt.image_spans:
            pixels = torch.from_numpy(prompt.pixel_values.copy())
            given["pixel_values"] = pixels.to(self.model.device, self.model.dtype)
        return given

    def token_ids(self, prompt: Prompt, num_tokens: int) -> list[int]:
        """What is written, as ids; nothing is timed."""
        output: list[int] = self.causal.generate(**self.inputs(prompt), **self.options(num_tokens))[
            0
        ].tolist()
        return output[-num_tokens:]

    def options(self, num_tokens: int) -> dict[str, Any]:
        return {"do_sample": False, "min_new_tokens": num_tokens, "max_new_tokens": num_tokens}


class Demo(_Transformers):
    """As the official demos do: `generate()` in a thread, a `TextIteratorStreamer` in front."""

    name, remark = "demo", "generate() in a thread with TextIteratorStreamer, default cache"

    def answer(self, question: Question, num_tokens: int) -> Answered:
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(_StreamTokenizer(self.model), skip_prompt=True)
        failures: list[Exception] = []

        def work() -> None:
            try:
                self.causal.generate(**given, **self.options(num_tokens), streamer=streamer)
            except Exception as error:  # raised again below; without an end the streamer waits for ever
                failures.append(error)
                streamer.end()

        started = perf_counter()
        given = self.inputs(question.prompt)
        thread = Thread(target=work)
        thread.start()
        pieces = [(piece, perf_counter()) for piece in streamer]
        thread.join()
        for failure in failures:
            raise failure
        # One piece per token, empty where a word is not complete yet, and one more at the end.
        times = [at for _, at in pieces[:num_tokens]]
        return _answered(started, times, "".join(piece for piece, _ in pieces))


class Library(_Transformers):
    """The library's best: one static cache that is used again, its decode step compiled where that works."""

    name = "library"

    def __init__(self, model: Any, max_tokens: int, *, compiles: bool) -> None:
        super().__init__(model)
        from transformers import StaticCache

        self.cache = StaticCache(config=self.causal.config.get_text_config(), max_cache_len=max_tokens)
        self.remark = "static cache, not compiled"
        if compiles:
            self.remark = self._try_to_compile()

    def _try_to_compile(self) -> str:
        from transformers import CompileConfig

        self.compile_config = CompileConfig(fullgraph=False, dynamic=False)
        self.compile_config._compile_all_devices = True  # without it, CUDA alone
        started = perf_counter()
        try:
            self.answer(Question(Prompt(tuple(range(5, 15)))), 4)
        except Exception as error:  # whatever the compiler says is the finding
            del self.compile_config
            torch._dynamo.reset()
            return f"static cache; compiling failed: {type(error).__name__}"
        return f"static cache, decode step compiled in {perf_counter() - started:.0f} s"

    def options(self, num_tokens: int) -> dict[str, Any]:
        """With the cache, emptied."""
        self.cache.reset()
        config = getattr(self, "compile_config", None)
        compiling = {"disable_compile": True} if config is None else {"compile_config": config}
        return super().options(num_tokens) | {"past_key_values": self.cache} | compiling

    def answer(self, question: Question, num_tokens: int) -> Answered:
        watch = _Watch()
        options = self.options(num_tokens) | {"streamer": watch}
        started = perf_counter()
        given = self.inputs(question.prompt)
        output = self.causal.generate(**given, **options)[0].tolist()
        return _answered(started, watch.times, self.model.processor.tokenizer.decode(output[-num_tokens:]))


class Ours:
    """This engine, one answer at a time; the streams of several go through `open`."""

    name, remark = "ours", "engine/, as the app runs it"

    def __init__(self, model: Any) -> None:
        self.model, self.engine = model, Engine()

    def open(self, question: Question, num_tokens: int) -> Iterator[GenerationEvent]:
        """A pull returns after one step at most, so that one loop can serve many, as the worker's does."""
        prompt, params = question.prompt, SamplingParams(max_new_tokens=num_tokens)
        public = prompt.digests if question.is_public else ()
        return self.engine.pulses(self.model, prompt, params, session=question.session, public=public)

    def token_ids(self, prompt: Prompt, num_tokens: int) -> list[int]:
        steps = self.engine.steps(self.model, prompt, SamplingParams(max_new_tokens=num_tokens))
        return [step.token_id for step in steps if isinstance(step, Token)]

    def answer(self, question: Question, num_tokens: int) -> Answered:
        started = perf_counter()
        stream = Stream(started)
        for event in self.open(question, num_tokens):
            stream.take(event)
        return stream.answered


@dataclass
class Stream:
    """The events of one answer as they come in; the first text counts as the first token."""

    started: float
    first: float | None = None
    last: float = 0.0
    num_tokens: int = 0
    text: str = ""

    def take(self, event: GenerationEvent) -> None:
        if isinstance(event, TextDelta):
            self.first = self.first or perf_counter()
            self.text += event.text
        elif isinstance(event, Completed):
            self.last, self.num_tokens = perf_counter(), event.usage.completion_tokens

    @property
    def answered(self) -> Answered:
        assert self.first is not None, "an answer without a word"
        rest_s = self.last - self.first
        return Answered(self.first - self.started, rest_s, self.num_tokens - 1, _words(self.text))


def _answered(started: float, times: Sequence[float], text: str) -> Answered:
    return Answered(times[0] - started, times[-1] - times[0], len(times) - 1, _words(text))


def _words(text: str) -> str:
    """Text to compare: an answer of ours does not begin with white space."""
    return " ".join(text.split())


class _Watch:
    """A streamer of transformers that looks at the clock; the first thing put is the prompt."""

    def __init__(self) -> None:
        self._has_prompt = False
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        if self._has_prompt:
            self.times.append(perf_counter())
        self._has_prompt = True

    def end(self) -> None:
        pass


class _StreamTokenizer:
    """The model's own tokenizer under the name and the arguments that the streamer uses."""

    def __init__(self, model: Any) -> None:
        self._tokenizer = model.processor.tokenizer

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        text: str = self._tokenizer.decode(token_ids)
        return text


def _assemble_llava(model: StockLlava) -> Any:
    with torch.device("meta"):
        llava = make_empty(model.config)
    llava.model.vision_tower, llava.model.multi_modal_projector = model.tower, model.projector
    llava.model.language_model, llava.lm_head = model.language_model, model.head
    return _without_stop(llava, suppressed=[model.config.image_token_index])


def _assemble_decoder(model: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(model.language_model.config)
    causal.model, causal.lm_head = model.language_model, model.head
    return _without_stop(causal, suppressed=None)


def _without_stop(causal: Any, *, suppressed: list[int] | None) -> Any:
    """Every contender writes the same number of tokens; none stops early."""
    from transformers import GenerationConfig

    causal.generation_config = GenerationConfig(pad_token_id=0, suppress_tokens=suppressed)
    causal.eval()
    return causal
