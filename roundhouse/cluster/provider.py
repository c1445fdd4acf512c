"""The client of a target that runs in the cluster: asks a replica through Serve's handle, as a backend is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import msgspec
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)

from roundhouse.cluster.affinity import home_key
from roundhouse.cluster.wire import Failed, Pieces, Taken, decode_part, encode_request
from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.core.errors import BadResponse, EngineError, Error, NotHealthy, Overloaded, ReplicaLost
from roundhouse.core.model import Capabilities, Health, ModelDescription
from roundhouse.core.portable import restored
from roundhouse.providers.base import AsyncProvider, PromptTokens

__all__ = ["ClusterProvider", "Find"]

# Gives the handle of the deployment that serves now, which is brought up if need be; entered for as long as it is used.
# Serve's handles have no types.
Find = Callable[[], AbstractAsyncContextManager[Any]]
T = TypeVar("T")
_RETRY_AFTER_S = 1.0


class ClusterProvider(AsyncProvider):
    """`find` is asked for each request: a switch may have put another deployment in the place."""

    def __init__(self, target: str, capabilities: Capabilities, find: Find) -> None:
        self._target = target
        self._capabilities = capabilities
        self._find = find
        self.waiting = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def astream(self, request: ChatRequest) -> Chunks:
        """As the engine's own client gives it. Closing it frees the slot on whatever node it is."""
        async with _Waits(self) as waits, self._find() as handle:
            with self._judging():
                options = handle.options(method_name="stream", stream=True, session_id=home_key(request))
                response = options.remote(encode_request(request))
            over = False
            try:
                async for data in self._parts(response):
                    match decode_part(data):
                        case Taken():
                            waits.end()
                        case Pieces(chunks):
                            for chunk in chunks:
                                over = over or bool(chunk.finish_reason)
                                yield chunk
                        case Failed(error):
                            over = True
                            raise self._judged(restored(error))
            finally:
                if not over:
                    response.cancel()

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._call("embed", list[list[float]], msgspec.msgpack.encode(list(texts)))

    async def arerank(self, query: str, documents: Sequence[str]) -> list[float]:
        return await self._call("rerank", list[float], msgspec.msgpack.encode((query, list(documents))))

    async def acount_tokens(self, request: ChatRequest) -> int:
        return await self._call("count_tokens", int, encode_request(request))

    async def awindow_tokens(self) -> int:
        return await self._call("window_tokens", int)

    async def atokens(self, request: ChatRequest) -> PromptTokens:
        return await self._call("tokens", PromptTokens, encode_request(request))

    async def adescribe(self) -> ModelDescription:
        return await self._call("describe", ModelDescription)

    async def ahealth(self) -> Health:
        """Loading while a request waits for a replica: one that is being started, or the first free slot of any."""
        return Health(alive=True, ready=not self.waiting, loading=self.waiting > 0)

    async def _parts(self, response: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        while True:
            with self._judging():
                try:
                    data = await anext(response)
                except StopAsyncIteration:
                    return
            yield data

    async def _call(self, what: str, kind: type[T], data: bytes = b"") -> T:
        async with _Waits(self), self._find() as handle:
            with self._judging():
                reply = msgspec.msgpack.decode(await handle.call.remote(what, data))
        if "error" in reply:
            raise self._judged(restored(reply["error"]))
        return msgspec.convert(reply["value"], kind)

    @contextlib.contextmanager
    def _judging(self) -> Iterator[None]:
        """What Ray raises, as an error of ours. A cancel that nobody here asked for is the replica's end."""
        try:
            yield
        except BackPressureError as error:
            said = f'target "{self._target}" has its queue full in the whole cluster'
            raise Overloaded(said, target=self._target, retry_after_s=error.retry_after_s or _RETRY_AFTER_S) from error
        except DeploymentUnavailableError as error:
            raise NotHealthy(f'target "{self._target}" could not be deployed', target=self._target) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._lost("it was taken away") from error
        except ReplicaUnavailableError as error:
            raise self._lost(error.message) from error
        except RayServeException as error:
            raise EngineError(f'target "{self._target}": {error}', target=self._target) from error
        except RayError as error:
            if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                said = f'target "{self._target}" failed: {type(error.cause).__name__}: {error.cause}'
                raise BadResponse(said, target=self._target) from error
            raise self._lost(type(error).__name__) from error

    def _judged(self, error: Error) -> Error:
        """The engine of one replica has failed; the others serve."""
        if isinstance(error, EngineError):
            return ReplicaLost(str(error), target=self._target, log_tail=error.log_tail)
        return error

    def _lost(self, why: str) -> ReplicaLost:
        return ReplicaLost(f'a replica of target "{self._target}" is gone: {why}', target=self._target)


class _Waits:
    """Counts a request as waiting until a replica has taken it, or it is over."""

    def __init__(self, provider: ClusterProvider) -> None:
        self._provider = provider
        self._counts = False

    async def __aenter__(self) -> _Waits:
        self._provider.waiting += 1
        self._counts = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._provider.waiting -= self._counts
        self._counts = False
