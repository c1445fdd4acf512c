"""An attempt of a traced request: told to the backend as a span of its own, and kept for whoever exports spans."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.core.errors import Error
from roundhouse.routing.run import Grant, Run
from roundhouse.telemetry.events import GIVEN_UP, OK, Followed

__all__ = ["followed"]


async def followed(
    run: Run, grant: Grant, ask: Callable[[Run, Grant, ChatRequest], Chunks], clock: Callable[[], float]
) -> Chunks:
    """The chunks of the attempt that `ask` makes; `run.followed` has it when it is over, however it ends."""
    assert run.request.trace is not None
    trace = run.request.trace.child()
    began, first_token_s, outcome, reason = clock(), None, GIVEN_UP, ""
    try:
        async with aclosing(ask(run, grant, replace(run.request, trace=trace))) as chunks:
            async for chunk in chunks:
                if first_token_s is None and chunk.has_content:
                    first_token_s = clock() - began
                if chunk.finish_reason:
                    outcome = OK
                yield chunk
    except Error as error:
        outcome, reason = error.code, str(error)
        raise
    finally:
        target = grant.target
        at_s, seconds = began - run.arrived, clock() - began
        run.followed.append(
            Followed(trace, target.name, grant.replica.key, target.model, at_s, seconds, outcome, reason, first_token_s)
        )
