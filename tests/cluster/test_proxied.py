"""An answer has one `x-request-id`, by which it is looked up."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from roundhouse.cluster.proxied import middlewares


async def test_of_two_ids_the_first_stays_and_all_else_is_as_it_was() -> None:
    given = [(b"x-request-id", b"ours"), (b"set-cookie", b"a"), (b"X-Request-ID", b"serve's"), (b"set-cookie", b"b")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": given})
        await send({"type": "http.response.body", "body": b"x"})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    (only,) = middlewares()
    await only.cls(app, *only.args, **only.kwargs)({"type": "http"}, receive, send)
    assert sent[0]["headers"] == [given[0], given[1], given[3]]
    assert sent[1] == {"type": "http.response.body", "body": b"x"}
