"""`/admin/benchmarks`: the last runs of `roundhouse bench run`, and their reports."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import InvalidRequest
from roundhouse.gateway.keeping import runs_folder
from roundhouse.history.runs import kept, report_of
from roundhouse.server.errors import openai_form
from roundhouse.server.exchange import send_error, send_json

__all__ = ["BenchmarkReport", "Benchmarks"]

# A report has its style within, no script, and loads nothing.
_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"


class Benchmarks:
    """`GET /admin/benchmarks`: the newest first, without single requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = await asyncio.to_thread(kept, runs_folder())
        rows = [{"id": one.id, "reason": one.reason, "run": one.summary} for one in found]
        await send_json(send, {"benchmarks": rows})


class BenchmarkReport:
    """`GET /admin/benchmarks/{id}`: the report of one, as a page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await asyncio.to_thread(report_of, runs_folder(), scope["path_params"]["id"])
        if body is None:
            said = "there is no such benchmark, or its report is gone"
            await send_error(send, InvalidRequest(said, param="id"), openai_form, 404)
            return
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"content-security-policy", _POLICY),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
