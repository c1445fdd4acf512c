"""The page's server: on loopback, for the one browser that was given its address, with nothing from elsewhere.

The token in the address counts once and is exchanged for a cookie; then another address is told, for a second browser.
A page of another site can neither guess the cookie nor choose Host and Origin, which are checked on every request.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib import resources
from typing import TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roundhouse.core.errors import DiskFull, Error, InvalidRequest
from roundhouse.rating.desk import Desk, View
from roundhouse.rating.judgement import Verdict

__all__ = ["Door", "build_app"]

_BODY_BYTES = 64 << 10
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class _Who(msgspec.Struct, forbid_unknown_fields=True):
    rater: str


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    rater: str
    comparison: int
    verdict: Verdict
    note: str = ""
    seconds: float = 0.0


Sent = TypeVar("Sent", _Who, _Said)


class Door:
    """Lets in who comes with a token that was not used yet, or with the cookie got for it. `told` gets each address."""

    def __init__(self, app: ASGIApp, port: int, told: Callable[[str], None]) -> None:
        self._app = app
        self._told = told
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._cookie = f"roundhouse_rate_{port}"
        self._session = secrets.token_urlsafe(32)
        self._token = ""
        self._tell()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (self._refusal(scope) or self._exchange(scope) or self._app)(scope, receive, sending)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("This server does not answer to that Host.", 400)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{headers['host'].lower()}":
            return PlainTextResponse("Pages of other sites may not ask this server.", 403)
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("Pages of other sites may not ask this server.", 403)
        return None

    def _exchange(self, scope: Scope) -> Response | None:
        """An answer in place of the page's own; None = who asks has been let in before."""
        offered = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if offered and scope["path"] == "/" and hmac.compare_digest(offered.encode(), self._token.encode()):
            self._tell()
            answer = RedirectResponse("/", 303)
            # Lax: the first page may be opened from a link elsewhere. What is posted is bound by its Origin.
            answer.set_cookie(self._cookie, self._session, httponly=True, samesite="lax")
            return answer
        cookie = cookie_parser(Headers(scope=scope).get("cookie", "")).get(self._cookie, "")
        if not hmac.compare_digest(cookie.encode("utf-8", "replace"), self._session.encode()):
            return PlainTextResponse("Open the newest address that the terminal shows; each counts once.", 403)
        return None

    def _tell(self) -> None:
        self._token = secrets.token_urlsafe(24)
        self._told(f"http://{self._hosts[0]}/?token={self._token}")


def build_app(desk: Desk, port: int, told: Callable[[str], None], *, rater: str = "") -> ASGIApp:
    """`rater`: who sits down if the page is not told another name."""
    static = str(resources.files("roundhouse.rating") / "static")

    async def index(request: Request) -> Response:
        return FileResponse(f"{static}/index.html")

    async def hello(request: Request) -> Response:
        return JSONResponse({"rater": rater, "raters": await asyncio.to_thread(desk.raters)})

    def answering(kind: type[Sent], act: Callable[[Sent], View]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                sent = msgspec.json.decode(await _body(request), type=kind)
                return JSONResponse(asdict(await asyncio.to_thread(act, sent)))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                return JSONResponse({"error": f"the request is not as it should be: {error}"}, 400)
            except Error as error:
                return JSONResponse({"error": str(error)}, _status(error))

        return answer

    posts = {
        "/api/task": answering(_Who, lambda sent: desk.look(sent.rater)),
        "/api/judgement": answering(
            _Said, lambda sent: desk.judge(sent.rater, sent.comparison, sent.verdict, sent.note, sent.seconds)
        ),
        "/api/undo": answering(_Who, lambda sent: desk.undo(sent.rater)),
        "/api/again": answering(_Who, lambda sent: desk.again(sent.rater)),
    }
    routes = [
        Route("/", index),
        Route("/api/hello", hello),
        *(Route(path, act, methods=["POST"]) for path, act in posts.items()),
        Mount("/static", StaticFiles(directory=static)),
    ]
    return Door(Starlette(routes=routes), port, told)


async def _body(request: Request) -> bytes:
    """Raises `InvalidRequest` for a type that a foreign form could send, and for more than a note can be."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InvalidRequest("send JSON as application/json", param="content-type")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_BYTES:
            raise InvalidRequest(f"the request is larger than {_BODY_BYTES >> 10} KiB", param="body")
    return body


def _status(error: Error) -> int:
    if isinstance(error, InvalidRequest):
        return 400
    return 507 if isinstance(error, DiskFull) else 500
