"""`POST /v1/feedback`: what came of an answer, by its id, for the experiments that it was in and the watch over its
target.
"""

from __future__ import annotations

import math

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.gateway import Gateway
from roundhouse.server.dialect import bare_id
from roundhouse.server.errors import openai_form
from roundhouse.server.exchange import ClientGone, read_body, send_bytes, send_error

__all__ = ["Feedback", "FeedbackBody"]

_LIMIT_BYTES = 64 << 10
_LONGEST_METRIC = 100


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """`id` is that of the answer."""

    id: str
    metric: str
    value: float | bool


class Feedback:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            told = msgspec.json.decode(await read_body(receive, _LIMIT_BYTES), type=FeedbackBody)
            request_id, value = bare_id(told.id), float(told.value)
            if not (told.metric.strip() and len(told.metric) <= _LONGEST_METRIC and math.isfinite(value)):
                raise InvalidRequest("feedback needs the name of a metric and a finite value", param="metric")
            found = await self._gateway.feedback(request_id, told.metric, value)
        except ClientGone:
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await send_error(send, InvalidRequest(f"feedback is an id, a metric and a value: {error}"), openai_form)
        except Error as error:
            await send_error(send, error, openai_form)
        else:
            await send_bytes(send, msgspec.json.encode({"experiments": found}))
