"""A model brought to an Ollama server by itself: `POST /api/pull`, whose records tell how far it is."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec

from roundhouse.core.errors import DownloadFailed
from roundhouse.store.download import Fetched, Pace

__all__ = ["pull_into_ollama"]

_LINE_BYTES = 1 << 20
_SILENCE_S = 600.0  # it says nothing while it hashes what came, and that is a large file on a slow disk


class _Record(msgspec.Struct):
    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


async def pull_into_ollama(url: str, tag: str, *, pace: Pace, listen: Callable[[Fetched], None]) -> None:
    """Until the server says `success`. It resumes by itself. Raises `DownloadFailed`."""
    done = False
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=pace.stall_s, sock_read=_SILENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.post(f"{url.rstrip('/')}/api/pull", json={"model": tag, "stream": True}) as answer,
        ):
            if answer.status != 200:
                raise _failed(url, tag, f"it answered {answer.status}: {(await answer.text())[:200]}", answer.status)
            async for line in answer.content:
                record = msgspec.json.decode(line[:_LINE_BYTES], type=_Record)
                if record.error:
                    raise _failed(url, tag, record.error)
                if record.total:
                    listen(Fetched(record.digest or tag, record.completed, record.total))
                done = done or record.status == "success"
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, msgspec.MsgspecError) as error:
        raise _failed(url, tag, str(error) or type(error).__name__) from error
    if not done:
        raise _failed(url, tag, "it ended without saying success; pull again, it goes on where it was")


def _failed(url: str, tag: str, said: str, status: int = 0) -> DownloadFailed:
    return DownloadFailed(f"Ollama at {url} did not pull {tag}: {said}", url=url, status=status)
