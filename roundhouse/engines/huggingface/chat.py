"""A chat request of the OpenAI wire -> token ids and settings; tokens -> its events. What cannot be done is refused."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from jinja2.exceptions import TemplateError
from tokenizers.decoders import DecodeStream

from roundhouse.engines.huggingface.batching import Ask, Batching, Token
from roundhouse.engines.huggingface.load import Loaded
from roundhouse.engines.huggingface.text import StopFinder

__all__ = ["Body", "Chat", "Refused"]

_PREFIX_TOKENS = 16  # of a text to be extended: enough for the decoder to join what follows


class Refused(Exception):
    """A request that is the caller's mistake, as its status and the fields of OpenAI's error object."""

    def __init__(self, status: int, kind: str, message: str, **facts: int) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "code": status, **facts}}


class Body(msgspec.Struct):
    """The fields that are understood; the client of ours that speaks to us sends no others."""

    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] = []
    logprobs: bool = False
    top_logprobs: int = 0
    continue_final_message: bool = False
    ignore_eos: bool = False
    chat_template_kwargs: dict[str, Any] = {}


class Chat:
    """One model's way to read and write."""

    def __init__(self, loaded: Loaded, batching: Batching, chat_template: str | None = None) -> None:
        self._loaded = loaded
        self._batching = batching
        self._tokenizer = loaded.tokenizer
        if chat_template:
            self._tokenizer.chat_template = chat_template
        self._end_tokens = _end_tokens(loaded)
        self._defaults = loaded.model.generation_config

    def tokens(self, body: Body) -> list[int]:
        """The prompt under the model's own chat template."""
        if not self._tokenizer.chat_template:
            raise Refused(400, "invalid_request_error", "the model has no chat template; set chat_template")
        if not body.messages:
            raise Refused(400, "invalid_request_error", "there are no messages")
        try:
            ids = self._tokenizer.apply_chat_template(
                body.messages,
                add_generation_prompt=not body.continue_final_message,
                continue_final_message=body.continue_final_message,
                tokenize=True,
                return_dict=False,
                **body.chat_template_kwargs,
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            said = f"the model's chat template refuses these messages: {error}"
            raise Refused(400, "invalid_request_error", said) from error
        return list(ids)

    def text_of(self, tokens: list[int]) -> str:
        """What these tokens stand for, special ones written out."""
        return str(self._tokenizer.decode(tokens))

    def ask(self, body: Body) -> Ask:
        """Raises `Refused` for a prompt that leaves no room for an answer."""
        tokens = self.tokens(body)
        window = self._loaded.window
        if len(tokens) >= window:
            raise Refused(
                400,
                "exceed_context_size_error",
                f"request ({len(tokens)} tokens) exceeds the available context size ({window} tokens), "
                "try increasing it",
                n_prompt_tokens=len(tokens),
                n_ctx=window,
            )
        if body.logprobs and self._batching.chooser.graphs:
            raise Refused(501, "not_supported_error", "logprobs need a target with cuda_graphs: false")
        left = window - len(tokens)
        seed = secrets.randbits(31) if body.seed is None else (body.seed ^ (body.seed >> 31)) & 0x7FFFFFFF
        return Ask(
            tokens=tokens,
            max_tokens=min(left, body.max_tokens or left),
            end_tokens=frozenset() if body.ignore_eos else self._end_tokens,
            temperature=self._setting(body.temperature, "temperature", 1.0),
            top_p=self._setting(body.top_p, "top_p", 1.0),
            top_k=int(self._setting(body.top_k, "top_k", 0)),
            min_p=self._setting(body.min_p, "min_p", 0.0),
            seed=seed,
            logprobs=body.logprobs,
        )

    async def events(self, body: Body, ask: Ask) -> AsyncIterator[bytes]:
        """The data of each event, as OpenAI's stream has it, the count of tokens last."""
        prefix = ask.tokens[-_PREFIX_TOKENS:] if body.continue_final_message else None
        decoder = DecodeStream(ids=prefix, skip_special_tokens=True)
        stops = StopFinder([body.stop] if isinstance(body.stop, str) else body.stop)
        count, reason = 0, "length"
        async with aclosing(self._batching.generate(ask)) as tokens:
            async for token in tokens:
                count += 1
                ended = token.id in ask.end_tokens
                piece = "" if ended else decoder.step(self._tokenizer.backend_tokenizer, token.id) or ""
                shown = stops.feed(piece)
                if ended or stops.stopped:
                    reason = "stop"
                if token.last:
                    shown += stops.end()
                logprobs = None if ended or not body.logprobs else self._logprobs(token, body.top_logprobs)
                if shown or logprobs:
                    yield _event({"content": shown}, logprobs)
                if stops.stopped:
                    break
        yield _event({}, finish_reason=reason)
        usage = {"prompt_tokens": len(ask.tokens), "completion_tokens": count, "total_tokens": len(ask.tokens) + count}
        yield msgspec.json.encode({"choices": [], "usage": usage})

    def _setting(self, asked: float | None, name: str, otherwise: float) -> float:
        """As asked, else as the model's own generation_config recommends."""
        if asked is not None:
            return float(asked)
        if name == "temperature" and self._defaults.do_sample is False:
            return 0.0
        own = getattr(self._defaults, name, None)
        return otherwise if own is None else float(own)

    def _logprobs(self, token: Token, count: int) -> dict[str, Any] | None:
        known = token.alternatives
        if known is None:
            return None
        top = [self._entry(other, value) for other, value in known.best(count)] if count else []
        return {"content": [{**self._entry(token.id, known.of(token.id)), "top_logprobs": top}]}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._tokenizer.decode([token]), "id": token, "logprob": logprob}


def _end_tokens(loaded: Loaded) -> frozenset[int]:
    """The ids that end an answer, by the model's and by the tokenizer's word."""
    said: list[Any] = []
    for source in (loaded.model.generation_config.eos_token_id, loaded.tokenizer.eos_token_id):
        said += source if isinstance(source, Sequence) else [source]
    return frozenset(token for token in said if isinstance(token, int) and token >= 0)


def _event(delta: Mapping[str, Any], logprobs: Any = None, finish_reason: str | None = None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    if logprobs is not None:
        choice["logprobs"] = logprobs
    return msgspec.json.encode({"choices": [choice]})
