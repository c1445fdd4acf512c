"""`roundhouse rate`: people say which of two answers is better, without knowing whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roundhouse.cli.arms import arms_of, questions_of
from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from roundhouse.rating.answers import Rated
    from roundhouse.rating.store import Design, Store

__all__ = ["app"]

app = typer.Typer(
    help="Have people compare answers blind; what they prefer, and how sure that is.", no_args_is_help=True
)
RatingsArgument = Annotated[Path, typer.Argument(help="The file of ratings, or the answers beside which it lies.")]
_SUFFIX = ".ratings"
_STOP_S = 2


@app.command("open")
def open_page(
    answers: Annotated[
        list[Path],
        typer.Argument(
            help="Answers (JSONL, CSV), results of several `bench run --texts` (.json), or a file of ratings."
        ),
    ],
    rater: Annotated[str, typer.Option(help="Your name; default: the page asks.")] = "",
    into: Annotated[Path | None, typer.Option(help="The file of ratings; default: beside the answers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order and sides; default: drawn. Fixed from then on.")] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0.0001, max=0.5, help="Chance of a false winner; default 0.05.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, max=0.49, help="A share within 1/2 +- this is no difference; default 0.1.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share that every rater judges, the rest by one; default 1.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 = any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Open the page on this machine. Every judgement is stored at once; a later call goes on where you stopped."""
    from roundhouse.rating.store import Store, is_ratings

    given = {"seed": seed, "alpha": alpha, "margin": margin, "overlap": overlap}
    if len(answers) == 1 and is_ratings(answers[0]):
        if into is not None:
            raise typer.BadParameter("--into goes with answers; this is a file of ratings already")
        store = Store(answers[0])
    else:
        rated = _answers(answers)
        store = Store(into or answers[0].with_suffix(_SUFFIX), _design(given))
        with contextlib.ExitStack() as undo:
            undo.callback(store.close)
            store.add(rated)
            undo.pop_all()
    try:
        _check_design(store, given)
        if not store.count():
            raise InvalidRequest("there is nothing to compare: no question has two different answers", param="answers")
        tell(f"ratings are kept in {store.path}; `roundhouse rate status {store.path}` tells who is ahead")
        _serve(store, rater, port, browser=browser)
    finally:
        store.close()


@app.command()
def answer(
    out: Annotated[Path, typer.Option(help="The JSONL to write; what it has already is not asked again.")],
    dataset: Annotated[str, typer.Option(help="Questions (JSONL, CSV), or `demo`.")] = "demo",
    variant: Annotated[
        list[str] | None,
        typer.Option(help="NAME,route=R,prompt=P,temperature=0.2,...: what differs. Repeatable; two at least."),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Take the arms of this experiment of the configuration.")] = "",
    count: Annotated[int | None, typer.Option(min=1, help="Only so many questions, spread over the dataset.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    at_once: Annotated[int, typer.Option(min=1, help="Questions under way at the same time.")] = 4,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Let several variants answer the same questions, for `rate open`. Exit code 1 if an answer could not be had."""
    from roundhouse.gateway import Gateway
    from roundhouse.rating.produce import Produced, produce

    settings = settings_of(config)
    arms = arms_of(settings, variant or (), experiment)
    questions = questions_of(dataset, count)

    async def run() -> Produced:
        async with Gateway(settings) as gateway:
            for notice in gateway.notices:
                tell(f"note: {notice}")
            sampling = Sampling(max_tokens=max_tokens)
            return await produce(gateway, arms, questions, out, sampling=sampling, at_once=at_once, tell=tell)

    done = asyncio.run(run())
    failed = [{"variant": name, "id": number, "reason": said} for (name, number), said in done.reasons.items()]
    if as_json:
        print_json({"out": str(out), "new": done.new, "kept": done.kept, "failed": failed})
    else:
        print(f"{out}: {done.new} new answers, {done.kept} were there, {len(failed)} could not be had")
        for one in failed[:5]:
            tell(f"{one['variant']}, question {one['id']}: {one['reason']}")
    if failed:
        raise typer.Exit(1)


@app.command()
def status(ratings: RatingsArgument, as_json: JSONOption = False) -> None:
    """Print what is preferred, how sure that is, and how far raters agree; at any time, as often as you like."""
    from roundhouse.rating.status import status_of
    from roundhouse.rating.table import lines

    with contextlib.closing(_opened(ratings)) as store:
        told = status_of(store)
    if as_json:
        print_json(told.as_dict())
    else:
        print("\n".join(lines(told)))


@app.command()
def export(
    ratings: RatingsArgument,
    form: Annotated[str, typer.Option(help="judgements, dpo (conversations) or dpo-text.")] = "judgements",
    out: Annotated[Path | None, typer.Option(help="The JSONL to write; default: standard output.")] = None,
) -> None:
    """Write every judgement as JSONL, or pairs of a preferred and a rejected answer as TRL's DPOTrainer takes them."""
    from roundhouse.core.files import write_atomically
    from roundhouse.rating.export import Form, rows

    if form not in list(Form):
        raise typer.BadParameter(f"--form is one of {', '.join(Form)}, not {form}")
    with contextlib.closing(_opened(ratings)) as store:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(store, Form(form))]
    if out is None:
        sys.stdout.writelines(lines)
        return
    try:
        write_atomically(out, "".join(lines).encode())
    except OSError as error:
        raise InvalidRequest(f"{out} cannot be written: {error.strerror or error}", param="out") from error
    tell(f"{out}: {len(lines)} rows")


def _opened(path: Path) -> Store:
    from roundhouse.rating.store import Store, is_ratings

    return Store(path if is_ratings(path) else path.with_suffix(_SUFFIX))


def _answers(paths: list[Path]) -> list[Rated]:
    """Of one text of answers, or of several runs of a benchmark."""
    if all(path.suffix == ".json" for path in paths):
        from roundhouse.bench.rated import answers_of
        from roundhouse.bench.results import read

        return answers_of([(path, read(path)) for path in paths])
    if len(paths) > 1:
        raise typer.BadParameter("one file of answers is rated at a time; several are results of `bench run` (.json)")
    from roundhouse.rating.answers import read_answers

    return read_answers(paths[0])


def _design(given: Mapping[str, Any]) -> Design:
    from roundhouse.rating.store import Design

    chosen = {name: value for name, value in given.items() if value is not None}
    return Design(**{"seed": secrets.randbelow(1 << 31), **chosen})


def _check_design(store: Store, given: Mapping[str, Any]) -> None:
    """What was fixed when the file was made is not changed in the middle: the promises would not hold."""
    kept = asdict(store.design)
    for name, value in given.items():
        if value is not None and value != kept[name]:
            said = f"{store.path} was begun with --{name} {kept[name]:g}; leave it out, or begin another file by --into"
            raise InvalidRequest(said, param=name)


def _serve(store: Store, rater: str, port: int, *, browser: bool) -> None:
    """Until Ctrl-C."""
    import uvicorn

    from roundhouse.rating.desk import Desk
    from roundhouse.rating.page import build_app

    listening = _listen(port)
    addresses: list[str] = []

    def told(address: str) -> None:
        if addresses:
            tell("the page is open; for another browser:")
            print(address, flush=True)
        addresses.append(address)

    app = build_app(Desk(store), listening.getsockname()[1], told, rater=rater)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """The address is told when it can be used, and when Ctrl-C ends it in order."""
            await super().startup(sockets)
            print(addresses[0], flush=True)
            if browser:
                import webbrowser

                await asyncio.to_thread(webbrowser.open, addresses[0])

    options = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="none", lifespan="off", server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=_STOP_S,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):
        Server(options).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}; choose another --port"
        ) from error
    return listening
