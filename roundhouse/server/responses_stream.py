"""OpenAI's responses wire as a stream: numbered events that open, fill and close one output item after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from roundhouse.core.chat import Chunk, TokenLogprob, ToolCall
from roundhouse.core.errors import Error
from roundhouse.core.report import Report
from roundhouse.server.dialect import Asked, event, extension
from roundhouse.server.errors import openai_form
from roundhouse.server.openai_answers import wire_logprobs
from roundhouse.server.responses_wire import (
    ResponsesForm,
    call_item,
    message_item,
    reasoning_item,
    response_object,
)

__all__ = ["Responses"]


class Responses(ResponsesForm):
    """The dialect of `/v1/responses`."""

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> ResponsesEncoder:
        return ResponsesEncoder(asked, reports[0])


class ResponsesEncoder:
    """Items come in the order in which the model writes them; at most one of them is open."""

    def __init__(self, asked: Asked, report: Report) -> None:
        self._asked = asked
        self._report = report
        self._own = report.request_id
        self._created = int(time.time())
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open = ""  # the kind of the open item: reasoning, message, or call
        self._text: list[str] = []
        self._likely: list[TokenLogprob] = []
        self._call = ToolCall()

    def begin(self) -> bytes:
        said = response_object(self._asked, self._report, self._created, [], None, None)
        return self._event("response.created", response=said) + self._event("response.in_progress", response=said)

    def piece(self, index: int, chunk: Chunk) -> bytes:
        events = b""
        if chunk.reasoning:
            events += self._opened("reasoning") + self._delta("response.reasoning_text.delta", chunk.reasoning)
        if chunk.text:
            likely = wire_logprobs(chunk.logprobs)["content"] if chunk.logprobs else []
            self._likely += chunk.logprobs
            events += self._opened("message") + self._delta("response.output_text.delta", chunk.text, logprobs=likely)
        for call in chunk.tool_calls:
            events += self._call_piece(call)
        if chunk.finish_reason is None:
            return events
        if not self._items and not self._open:
            events += self._opened("message")
        return events + self._closed() + self._finished(chunk)

    def end(self) -> bytes:
        return b""

    def failed(self, error: Error) -> bytes:
        said = openai_form(error)["error"]
        whole = response_object(self._asked, self._report, self._created, self._items, None, None)
        told = {"code": said["code"], "message": said["message"]}
        return self._event("response.failed", response={**whole, "status": "failed", "error": told})

    def _finished(self, chunk: Chunk) -> bytes:
        whole = response_object(self._asked, self._report, self._created, self._items, chunk.finish_reason, chunk.usage)
        whole["roundhouse"] = extension(self._report, chunk, self._asked.warnings)
        return self._event(f"response.{whole['status']}", response=whole)

    def _call_piece(self, piece: ToolCall) -> bytes:
        events = b""
        if self._open != "call" or piece.index != self._call.index:
            events += self._closed()
            own = piece.id or f"call_{piece.index}"
            self._open, self._call = "call", ToolCall(piece.index, own, piece.name, "")
            item = call_item(self._own, len(self._items), self._call, "in_progress")
            events += self._event("response.output_item.added", output_index=len(self._items), item=item)
        if piece.arguments:
            events += self._delta("response.function_call_arguments.delta", piece.arguments)
        return events

    def _opened(self, kind: str) -> bytes:
        """The events that open an item of this kind, if it is not open already."""
        if self._open == kind:
            return b""
        events = self._closed()
        self._open = kind
        place = len(self._items)
        if kind == "reasoning":
            item = reasoning_item(self._own, "")
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = message_item(self._own, "", status="in_progress")
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        events += self._event("response.output_item.added", output_index=place, item=item)
        return events + self._event(
            "response.content_part.added", item_id=item["id"], output_index=place, content_index=0, part=part
        )

    def _delta(self, name: str, text: str, **fields: Any) -> bytes:
        self._text.append(text)
        if self._open != "call":
            fields["content_index"] = 0
        return self._event(name, item_id=self._item_id(), output_index=len(self._items), delta=text, **fields)

    def _closed(self) -> bytes:
        """The events that close the open item, if there is one."""
        kind, text = self._open, "".join(self._text)
        if not kind:
            return b""
        place = {"item_id": self._item_id(), "output_index": len(self._items)}
        if kind == "call":
            call = ToolCall(self._call.index, self._call.id, self._call.name, text)
            item = call_item(self._own, len(self._items), call)
            done = {**place, "name": call.name, "arguments": text}
            events = self._event("response.function_call_arguments.done", **done)
        else:
            item = message_item(self._own, text, self._likely) if kind == "message" else reasoning_item(self._own, text)
            more: dict[str, Any] = {"logprobs": item["content"][0]["logprobs"]} if kind == "message" else {}
            name = "response.output_text.done" if kind == "message" else "response.reasoning_text.done"
            events = self._event(name, **place, content_index=0, text=text, **more)
            part = item["content"][0] if item["content"] else {"type": "reasoning_text", "text": ""}
            events += self._event("response.content_part.done", **place, content_index=0, part=part)
        events += self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open, self._text, self._likely = "", [], []
        return events

    def _item_id(self) -> str:
        if self._open == "call":
            return f"fc_{self._own}_{len(self._items)}"
        return f"{'msg' if self._open == 'message' else 'rs'}_{self._own}"

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        said = event(kind, {"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return said
