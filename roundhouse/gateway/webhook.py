"""Tells a program of the user's own of something by a POST of JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

__all__ = ["Webhook"]

log = logging.getLogger(__name__)
_LIMIT_S = 5.0
_TRIES = 3
_PAUSE_S = 1.0
_JSON = {"content-type": "application/json"}


class Webhook:
    """Redirects are not followed, and no more than the host is ever logged: the URL may hold a token."""

    def __init__(self, url: str, pause_s: float = _PAUSE_S) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._pause_s = pause_s

    async def post(self, body: Mapping[str, Any]) -> bool:
        """Whether it was taken; three tries of five seconds. Never raises but for its cancelling."""
        data, reason = msgspec.json.encode(body), ""
        for number in range(_TRIES):
            if number:
                await asyncio.sleep(self._pause_s * 2**number)
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LIMIT_S)) as session,
                    session.post(self._url, data=data, headers=_JSON, allow_redirects=False) as answer,
                ):
                    if answer.status < 300:
                        return True
                    reason = f"status {answer.status}"
                    if answer.status < 500 and answer.status != 429:
                        break  # it will say the same again
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = type(error).__name__
        log.warning("the webhook at %s was not told: %s", self._host, reason)
        return False
