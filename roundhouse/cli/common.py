"""What several commands share: reading the settings, printing JSON, telling something on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from roundhouse.config import Server, Settings, load
from roundhouse.core.errors import ConnectFailed, Error, KeyRejected
from roundhouse.gateway.build import provider_types

__all__ = [
    "ConfigOption",
    "JSONOption",
    "ModelArgument",
    "URLOption",
    "ask_server",
    "load_said",
    "order",
    "print_json",
    "progress",
    "server_state",
    "server_url",
    "settings_of",
    "tell",
]

_LIMIT_S = 5.0

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file; default: $ROUNDHOUSE_CONFIG, config/llm_config.yaml."),
]
URLOption = Annotated[str, typer.Option("--url", help="The server; default: that of the configuration.")]
JSONOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelArgument = Annotated[str, typer.Argument(help="NAME, NAME:VARIANT or NAME@REVISION.")]


def settings_of(path: Path | None, flags: Mapping[str, Any] | None = None) -> Settings:
    return load(path, flags=flags, environ=os.environ, cwd=Path.cwd(), types=provider_types())


@contextlib.contextmanager
def progress(text: str, look: Callable[[], str] = str) -> Iterator[None]:
    """A spinner with `text` and what `look` says on standard error; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots", text)

    def shown() -> Spinner:
        with contextlib.suppress(Exception):  # what is shown is never a reason to fail
            spinner.update(text=f"{text} {look()}".rstrip())
        return spinner

    with Live(get_renderable=shown, console=Console(stderr=True), transient=True, refresh_per_second=4):
        yield


def load_said(memory: Mapping[str, Any]) -> str:
    """How far the loads under way are, of the `memory` of a house's state."""
    said = [
        f"{key}: {model['read_bytes'] >> 20:,} MiB, {model['loaded']:.0%}"
        for key, model in memory["models"].items()
        if model["loaded"] < 1
    ]
    waiting = [f"{key} waits for memory" for key in memory["waiting"]]
    return "; ".join([*said, *waiting])


def print_json(value: Any) -> None:
    """Also of dataclasses and structs."""
    print(json.dumps(value, default=msgspec.to_builtins, ensure_ascii=False, indent=2))


def tell(text: str) -> None:
    """A line for the person, apart from the output."""
    print(text, file=sys.stderr)


def server_url(url: str, config: Path | None) -> str:
    """The root of the server that is meant, without /v1."""
    server = settings_of(config).server if not url else None
    root = url or (_own_url(server) if server else "")
    if not root.startswith(("http://", "https://")):
        raise typer.BadParameter("--url must begin with http:// or https://")
    if "@" in root:
        raise typer.BadParameter("--url must hold no name or password; the key is that of $ROUNDHOUSE_KEY")
    return root.rstrip("/").removesuffix("/v1")


def _own_url(server: Server) -> str:
    scheme = "https" if server.tls_cert else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - not listened on
    return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"


def ask_server(
    root: str, path: str, body: Mapping[str, Any] | None = None, *, limit_s: float = _LIMIT_S
) -> tuple[int, Any]:
    """Status and answer of a running server; a body makes it a POST. The key is that of $ROUNDHOUSE_KEY.

    Raises `ConnectFailed` if none of ours answers, `KeyRejected` if it wants another key.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        root + path,
        data=data,
        headers={"content-type": "application/json", **_key_header()},
        method="POST" if body is not None else "GET",
    )
    try:
        with urllib.request.urlopen(request, timeout=limit_s) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            try:
                told = json.load(error)
            except ValueError:
                raise ConnectFailed(f"{root} answered {error.code}, and not as a Roundhouse server does") from error
        if error.code in (401, 403):
            said = f"{root}: {told['error']['message']}; set $ROUNDHOUSE_KEY to a key of the role admin"
            raise KeyRejected(said) from error
        return error.code, told
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ConnectFailed(
                f"{root} shows a certificate that is not trusted here: {reason.verify_message}; "
                "name it, or its authority's, in $SSL_CERT_FILE"
            ) from error
        reason = getattr(reason, "strerror", None) or reason
        raise ConnectFailed(
            f"no Roundhouse server answers at {root}: {reason}; is `roundhouse serve` running?"
        ) from error


def order(root: str, path: str, body: Mapping[str, Any] | None = None, *, limit_s: float = _LIMIT_S) -> dict[str, Any]:
    """What a running server answered; raises `Error` with what it refused with, and what `ask_server` raises."""
    status, told = ask_server(root, path, body, limit_s=limit_s)
    if status >= 400:
        said = told.get("error", {}) if isinstance(told, dict) else {}
        message = said.get("message") if isinstance(said, dict) else None
        raise Error(message or f"{root} refused with status {status}: {told}")
    answer: dict[str, Any] = told
    return answer


def _key_header() -> dict[str, str]:
    key = os.environ.get("ROUNDHOUSE_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def server_state(root: str, *, limit_s: float = _LIMIT_S) -> dict[str, Any]:
    """What a running server does. Raises `ConnectFailed` if none of ours answers there."""
    status, state = ask_server(root, "/admin/state", limit_s=limit_s)
    if status != 200 or not isinstance(state, dict) or "replicas" not in state:
        raise ConnectFailed(f"no Roundhouse server answers at {root} (status {status})")
    return state
