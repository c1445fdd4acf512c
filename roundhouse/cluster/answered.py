"""What the owner answers, or that there is none to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from roundhouse.core.errors import EngineError

__all__ = ["answered"]

T = TypeVar("T")


async def answered(response: Awaitable[T]) -> T:
    """Raises `EngineError` while there is no owner. Ray cancels whoever waits for one that dies."""
    try:
        return await response
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        why: BaseException = error
    except (RayError, RayServeException) as error:
        why = error
    said = str(why) or type(why).__name__
    raise EngineError(f"the owner of the cluster's routes is being restarted ({said}); try again") from why
