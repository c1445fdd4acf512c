"""The one HTTP seam of all providers: a pooled client whose failures are our errors.

A connection that dies before any byte of the answer has come is tried once more at no cost: servers close kept
connections as they please, and the client learns of it only by using them.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from roundhouse.core.errors import (
    BadResponse,
    ConnectFailed,
    ContentRefused,
    ContextTooLong,
    Error,
    InvalidRequest,
    Loading,
    Misconfigured,
    Overloaded,
    ProviderError,
    StreamBroken,
    TimedOut,
    Unsupported,
)
from roundhouse.core.trace import TraceContext
from roundhouse.providers.base import Endpoint

__all__ = ["HTTPClient", "error_from_frame"]

_READ_BUFFER_BYTES = 1 << 20  # aiohttp's 64 KiB makes long prompts slow
_ANSWER_LIMIT_BYTES = 64 << 20
_EXCERPT_CHARACTERS = 200
_SHORTEST_SECRET = 8
_JSON = {"content-type": "application/json"}


class HTTPClient:
    """Requests to one backend. Built anywhere; its connections belong to the loop that first uses it.

    `keep_alive` False: each request has a connection of its own, for servers that drop a connection after a stream
    although they had announced to keep it.
    """

    def __init__(self, endpoint: Endpoint, *, keep_alive: bool = True) -> None:
        self.target = endpoint.target
        self._url = endpoint.url.rstrip("/")
        self._headers = {**_JSON, **endpoint.headers}
        if endpoint.key:
            self._headers["authorization"] = f"Bearer {endpoint.key}"
        said = (endpoint.key, *endpoint.headers.values())
        self._secrets = [secret.encode() for secret in said if len(secret) >= _SHORTEST_SECRET]
        self._connect_s = endpoint.connect_s
        self._streaming = self._limits(None)
        self._keep_alive = keep_alive
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False

    async def aclose(self) -> None:
        self._closed = True
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()

    async def get(self, path: str, *, limit_s: float = 5.0) -> Any:
        """The JSON at `path`."""
        return await self._whole("GET", path, None, limit_s)

    async def get_status(self, path: str, *, limit_s: float = 5.0) -> None:
        """Nothing, if `path` answers with a success; its body is not looked at."""
        (await self._send("GET", path, None, limit_s=limit_s)).close()

    async def post(self, path: str, body: Mapping[str, Any], *, limit_s: float = 60.0) -> Any:
        """The JSON that answers `body`, for requests whose answer is small and quick."""
        return await self._whole("POST", path, body, limit_s)

    async def get_text(self, path: str, *, limit_s: float = 5.0) -> str:
        """The text at `path`."""
        response = await self._send("GET", path, None, limit_s=limit_s)
        try:
            return (await _body(response)).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._cut(error, response.status) from error
        finally:
            response.release()

    async def post_empty(self, path: str, *, limit_s: float) -> None:
        """Nothing, if `path` takes a request without a body; its answer is not looked at."""
        (await self._send("POST", path, None, limit_s=limit_s)).close()

    async def delete(self, path: str, body: Mapping[str, Any], *, limit_s: float = 60.0) -> None:
        """Have the server remove what `body` names; the answer's body is not looked at."""
        (await self._send("DELETE", path, body, limit_s=limit_s)).close()

    def stream(
        self, path: str, body: Mapping[str, Any], trace: TraceContext | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of a streamed answer as they come. Leaving closes the connection, which cancels the generation.

        `trace`: the span that asks, told to the backend.
        """
        return _Stream(self, path, body, trace)

    async def _whole(self, method: str, path: str, body: Mapping[str, Any] | None, limit_s: float) -> Any:
        response = await self._send(method, path, body, limit_s=limit_s)
        try:
            data = await _body(response)
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_json(response.status, data) from error
        except TimeoutError as error:
            raise self._timed_out(limit_s, "total") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._cut(error, response.status) from error
        finally:
            response.release()

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        limit_s: float | None,
        trace: TraceContext | None = None,
    ) -> aiohttp.ClientResponse:
        """A response with a success status; anything else is raised."""
        data = None if body is None else _encoded(body)
        for last in (False, True):
            try:
                # The second try takes no kept connection: others may have died with the first.
                response = await self._open(keep_alive=self._keep_alive and not last).request(
                    method,
                    self._url + path,
                    data=data,
                    headers=None if trace is None else trace.headers,
                    timeout=self._streaming if limit_s is None else self._limits(limit_s),
                )
                break
            except aiohttp.ServerTimeoutError as error:
                raise self._timed_out(self._connect_s, "connect") from error
            except TimeoutError as error:
                raise self._timed_out(limit_s or self._connect_s, "total") from error
            except aiohttp.ClientConnectorError as error:
                raise self._unreachable(error, refused=isinstance(error.os_error, ConnectionRefusedError)) from error
            except (aiohttp.ClientError, OSError) as error:
                if last:
                    raise self._unreachable(error, refused=False) from error
        if response.status >= 300:
            try:
                text = await response.content.read(64 << 10)
            except (aiohttp.ClientError, OSError, TimeoutError):
                text = b""
            finally:
                response.close()
            raise error_from_status(self.target, response.status, response.headers, self._without_secrets(text))
        return response

    def _limits(self, total_s: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=total_s, sock_connect=self._connect_s)

    def _open(self, *, keep_alive: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectFailed(f'the client of target "{self.target}" is closed', target=self.target)
        if keep_alive not in self._sessions:
            pool: dict[str, Any] = {"keepalive_timeout": 4.0} if keep_alive else {"force_close": True}
            self._sessions[keep_alive] = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=0, **pool),
                read_bufsize=_READ_BUFFER_BYTES,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[keep_alive]

    def _without_secrets(self, text: bytes) -> bytes:
        """Some services repeat the key that they refuse."""
        for secret in self._secrets:
            text = text.replace(secret, b"***")
        return text

    def _timed_out(self, limit_s: float, phase: str) -> TimedOut:
        return TimedOut(
            f'target "{self.target}" at {self._url} did not answer within {limit_s:g} s',
            target=self.target,
            phase=phase,
            limit_s=limit_s,
        )

    def _unreachable(self, error: Exception, *, refused: bool) -> ConnectFailed:
        said = "nothing listens there; is it running?" if refused else _words(error)
        return ConnectFailed(
            f'target "{self.target}" cannot be reached at {self._url}: {said}', target=self.target, refused=refused
        )

    def _cut(self, error: Exception, status: int) -> StreamBroken:
        return StreamBroken(
            f'target "{self.target}" cut its answer: {_words(error)}', target=self.target, status=status
        )

    def _no_json(self, status: int, data: bytes) -> BadResponse:
        return BadResponse(
            f'target "{self.target}" at {self._url} answered {status} with something that is no JSON: {_excerpt(data)}',
            target=self.target,
            status=status,
        )


class _Stream(AbstractAsyncContextManager[AsyncIterator[bytes]], AsyncIterator[bytes]):
    """A class and no generators, since every request passes here."""

    __slots__ = ("_body", "_client", "_path", "_response", "_trace")

    def __init__(self, client: HTTPClient, path: str, body: Mapping[str, Any], trace: TraceContext | None) -> None:
        self._client = client
        self._path = path
        self._body = body
        self._trace = trace

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._response = await self._client._send("POST", self._path, self._body, limit_s=None, trace=self._trace)
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._client._cut(error, self._response.status) from error
        if not piece:
            raise StopAsyncIteration
        return piece

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Half a pair of surrogates (of a file name, or of a command line in another encoding) has no form in UTF-8."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the request holds {error.object[error.start]!a}, which is no character (half a surrogate pair): "
            "send text that is UTF-8"
        ) from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """All of it, up to a limit. One read would give no more than what has come so far."""
    parts, size = [], 0
    async for piece in response.content.iter_any():
        parts.append(piece)
        size += len(piece)
        if size > _ANSWER_LIMIT_BYTES:
            break
    return b"".join(parts)


def error_from_status(target: str, status: int, headers: Mapping[str, str], body: bytes) -> Error:
    """The error of an answer with a failure status, by status and code, never by the words of its message."""
    said = _said(body)
    message = said.get("message") or _excerpt(body)
    told = f'target "{target}" answered {status}: {message}'
    kind = {str(said.get("type")), str(said.get("code"))}
    # vLLM has no code for it; it names the parameter at fault.
    if kind & {"exceed_context_size_error", "context_length_exceeded"} or said.get("param") == "input_tokens":
        return _too_long(target, told, said)
    if kind & {"content_filter", "content_policy_violation"}:
        return ContentRefused(told, target=target)
    match status:
        case 501:
            return Unsupported(told, target=target)
        case 401 | 402 | 403:
            return Misconfigured(f"{told}; check its api_key and account", target=target, status=status)
        case 404:
            # The model's name comes from the configuration, not from the caller: another target may well have its own.
            return Misconfigured(f"{told}; check its endpoint and model", target=target, status=status)
        case 429:
            return Overloaded(
                told, target=target, status=status, retry_after_s=retry_after_s(headers), rate_limited=True
            )
        case 503 if "unavailable_error" in kind:
            return Loading(told, target=target, status=status)
        case 503:
            return Overloaded(told, target=target, status=status, retry_after_s=retry_after_s(headers))
        case 408 | 504:
            return TimedOut(told, target=target, status=status, phase="total")
        case _ if 400 <= status < 500:
            return InvalidRequest(told)
        case _:
            return ProviderError(told, target=target, status=status)


def error_from_frame(target: str, said: Any) -> Error:
    """The error of an `error` frame inside a stream that had begun with a success status."""
    fields = said if isinstance(said, Mapping) else {"message": said}
    told = f'target "{target}" failed in the middle: {fields.get("message") or "it did not say why"}'
    if "exceed_context_size_error" in (fields.get("type"), fields.get("code")):
        return _too_long(target, told, fields)
    return StreamBroken(told, target=target)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms`, or from `Retry-After` as seconds or a date; None = not said, or unreadable."""
    if milliseconds := headers.get("retry-after-ms"):
        return _number(milliseconds, 1000)
    value = headers.get("Retry-After")
    if not value:
        return None
    if (seconds := _number(value, 1)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _number(text: str, divisor: float) -> float | None:
    try:
        value = float(text) / divisor
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _too_long(target: str, told: str, said: Mapping[str, Any]) -> ContextTooLong:
    prompt, limit = said.get("n_prompt_tokens"), said.get("n_ctx")
    return ContextTooLong(
        told,
        target=target,
        prompt_tokens=prompt if isinstance(prompt, int) else 0,
        limit_tokens=limit if isinstance(limit, int) else 0,
    )


def _said(body: bytes) -> Mapping[str, Any]:
    """The error object of a body: OpenAI's `{"error": {...}}`, or the plain `{"error": "text"}` of others."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    if isinstance(error, dict):
        return error
    return {"message": error} if isinstance(error, str) else {}


def _excerpt(data: bytes) -> str:
    text = " ".join(data[: _EXCERPT_CHARACTERS * 4].decode("utf-8", "replace").split())
    return repr(text[:_EXCERPT_CHARACTERS]) if text else "nothing"


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
