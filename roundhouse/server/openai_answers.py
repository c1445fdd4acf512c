"""OpenAI's chat wire: an answer -> bytes, whole or as server-sent events.

Format: platform.openai.com/docs/api-reference/chat, and .../chat-streaming.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from roundhouse.core.chat import Answer, Chunk, TokenLogprob, ToolCall, Usage
from roundhouse.core.errors import Error
from roundhouse.core.report import Report
from roundhouse.server.dialect import EVENTS, ID_HEADERS, Asked, extension, summed, whole_call
from roundhouse.server.errors import openai_form
from roundhouse.server.openai_wire import ChatBody, parse_chat

__all__ = ["Chat", "ChatEncoder", "wire_logprobs", "wire_usage"]

_json = msgspec.json.Encoder()


class Chat:
    """The dialect of `/v1/chat/completions`."""

    media_type = EVENTS
    id_headers = ID_HEADERS
    form = staticmethod(openai_form)

    def parse(self, body: bytes) -> Asked:
        return parse_chat(body)

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes:
        """A `chat.completion` object."""
        usage = summed([answer.usage for answer in answers], len(answers))
        return _json.encode(
            {
                "id": f"chatcmpl-{reports[0].request_id}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": reports[0].model,
                "choices": [_choice(place, answer, old=_is_old(asked)) for place, answer in enumerate(answers)],
                "usage": wire_usage(usage),
                "roundhouse": extension(reports[0], answers[0]),
            }
        )

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> ChatEncoder:
        return ChatEncoder(reports, int(time.time()), include_usage=asked.include_usage, old=_is_old(asked))


def _is_old(asked: Asked) -> bool:
    """Whether the client speaks of functions, as it was before there were tools."""
    body = asked.body
    return isinstance(body, ChatBody) and body.functions is not None and not body.tools


def _choice(place: int, answer: Answer, *, old: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        calls = [whole_call(call, place=place) for place, call in enumerate(answer.tool_calls)]
        message |= {"function_call": _function(calls[0])} if old else {"tool_calls": [_wire_call(one) for one in calls]}
        message["content"] = answer.text or None
    return {
        "index": place,
        "message": message,
        "finish_reason": _finish(answer.finish_reason, old=old),
        "logprobs": wire_logprobs(answer.logprobs) if answer.logprobs else None,
    }


class ChatEncoder:
    """`Chunk`s -> server-sent events of `chat.completion.chunk` objects, each event whole."""

    def __init__(self, reports: Sequence[Report], created: int, *, include_usage: bool, old: bool = False) -> None:
        self._report = reports[0]
        self._old = old
        self._usages = [Usage()] * len(reports)
        self._open = len(reports)
        self._include_usage = include_usage
        # The fields that no chunk changes are encoded once; a text chunk is then two joins around its text.
        head = {"id": f"chatcmpl-{self._report.request_id}", "object": "chat.completion.chunk", "created": created}
        self._head = b"data: " + _json.encode(head)[:-1] + b',"model":' + _json.encode(self._report.model)
        self._text_head = self._head + b',"choices":[{"index":0,"delta":{"content":'

    def begin(self) -> bytes:
        """The event that names the role, for each answer."""
        role = {"role": "assistant", "content": ""}
        return b"".join(self._event(index, role, None, ()) for index in range(len(self._usages)))

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The content of a chunk, and the end of its answer if it is the last."""
        content = self._content(index, chunk) if chunk.has_content or chunk.logprobs else b""
        return content if chunk.finish_reason is None else content + self._last(index, chunk)

    def end(self) -> bytes:
        """Usage where it is asked for, and the end mark."""
        if not self._include_usage:
            return b"data: [DONE]\n\n"
        usage = _json.encode(wire_usage(summed(self._usages, len(self._usages))))
        return self._head + b',"choices":[],"usage":' + usage + b"}\n\ndata: [DONE]\n\n"

    def failed(self, error: Error) -> bytes:
        return b"data: " + _json.encode(openai_form(error)) + b"\n\n"

    def _content(self, index: int, chunk: Chunk) -> bytes:
        if chunk.text and not (index or chunk.reasoning or chunk.tool_calls or chunk.logprobs):
            return self._text_head + _json.encode(chunk.text) + b'},"finish_reason":null,"logprobs":null}]}\n\n'
        delta: dict[str, Any] = {}
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            calls = chunk.tool_calls
            delta |= {"function_call": _function(calls[0])} if self._old else {"tool_calls": list(map(_piece, calls))}
        return self._event(index, delta, None, chunk.logprobs)

    def _last(self, index: int, chunk: Chunk) -> bytes:
        """The finish reason; after the last of all answers, what is said beside them."""
        self._usages[index] = chunk.usage or Usage()
        self._open -= 1
        tail = b"" if self._open else b',"roundhouse":' + _json.encode(extension(self._report, chunk))
        return self._event(index, {}, _finish(chunk.finish_reason, old=self._old), (), tail)

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None,
        logprobs: tuple[TokenLogprob, ...],
        tail: bytes = b"",
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": wire_logprobs(logprobs) if logprobs else None,
        }
        return self._head + b',"choices":[' + _json.encode(choice) + b"]" + tail + b"}\n\n"


def wire_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _finish(reason: str | None, *, old: bool) -> str | None:
    return "function_call" if old and reason == "tool_calls" else reason


def _function(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments} if call.name else {"arguments": call.arguments}


def _wire_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": _function(call)}


def _piece(call: ToolCall) -> dict[str, Any]:
    """Name and id come once, with the first piece; clients join the texts of all."""
    said: dict[str, Any] = {"index": call.index, "function": _function(call)}
    if call.name:
        said |= {"id": call.id or f"call_{call.index}", "type": "function"}
    return said


def wire_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": entry.token,
                "logprob": entry.logprob,
                "bytes": list(entry.token.encode()),
                "top_logprobs": [
                    {"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in entry.top
                ],
            }
            for entry in entries
        ],
        "refusal": None,
    }
