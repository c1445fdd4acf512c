"""The transformers program as a child of ours: one model, the OpenAI wire on a loopback port.

Standard input: one JSON line of settings, then nothing until the parent ends. Standard output: `{"event": "imported"}`,
then one more JSON line, `{"event": "ready", "url": ..., "slots": ..., "window": ..., "device": ..., "dtype": ...,
"notes": [...]}` or `{"event": "failed", ...}`. Logs go to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from roundhouse.engines import lifeline

__all__ = ["main"]

_WATCH_S = 0.5
_HUNG_S = 300.0  # a step of the largest model on the slowest processor takes less
_DEAD = 70  # EX_SOFTWARE of sysexits.h


class CannotStart(Exception):
    """`kind` and `extra` are for the parent; the text is the reason."""

    def __init__(self, kind: str, reason: str, extra: str = "") -> None:
        super().__init__(reason)
        self.told = {"event": "failed", "kind": kind, "reason": reason, "extra": extra}


async def _serve(settings: Mapping[str, Any], answers: Any) -> None:
    """Load, tell the parent, serve until the generation thread dies or the process is ended."""
    import uvicorn

    from roundhouse.engines.huggingface.service import Service

    service = await Service.start(settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    config = uvicorn.Config(
        service, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, loop="none"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps({"event": "ready", "url": url, **service.facts}), file=answers, flush=True)
    watching = asyncio.create_task(_watch(service))
    await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        sys.stderr.write(f"roundhouse: {watching.result()}\n")
        sys.stderr.flush()
        os._exit(_DEAD)
    service.stop()


async def _watch(service: Any) -> str:
    """Why the service can answer nobody any more; waits until that is so."""
    loop = asyncio.get_running_loop()
    steps, moved = -1, loop.time()
    while True:
        await asyncio.sleep(_WATCH_S)
        if not service.alive:
            return "the generation thread has died; its error stands above"
        if service.steps != steps or not service.busy:
            steps, moved = service.steps, loop.time()
        elif loop.time() - moved > _HUNG_S:
            return f"the generation thread has made no step for {_HUNG_S:g} s"


def _checked_imports() -> None:
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        if error.name in ("torch", "transformers"):
            raise CannotStart("missing", f"{error.name} is not installed", "huggingface") from error
        raise CannotStart("broken", f"transformers cannot be imported: {error}") from error
    except (ImportError, OSError) as error:
        raise CannotStart("broken", f"transformers cannot be imported: {error}") from error
    import roundhouse.engines.huggingface.service  # noqa: F401 - its imports are most of what a start takes

    transformers.utils.logging.disable_progress_bar()
    torch.set_grad_enabled(False)


def main() -> None:
    """Serve until standard input ends. What takes long and is the same for every model comes before the settings."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    cannot: CannotStart | None = None
    try:
        _checked_imports()
    except CannotStart as error:
        cannot = error
    print(json.dumps({"event": "imported"}), file=answers, flush=True)
    told = sys.stdin.buffer.readline()
    if not told:  # a spare that nobody needed
        os._exit(0)
    settings = json.loads(told)
    lifeline.hold(sys.stdin.buffer, parent=settings["parent"])
    try:
        if cannot is not None:
            raise cannot
        asyncio.run(_serve(settings, answers))
    except CannotStart as error:
        print(json.dumps(error.told), file=answers, flush=True)
    except Exception as error:  # noqa: BLE001 - whatever a library raises over a file is why it cannot start
        traceback.print_exc()
        reason = " ".join(str(error).split()) or type(error).__name__
        print(json.dumps({"event": "failed", "kind": "model", "reason": reason[:1000]}), file=answers, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
