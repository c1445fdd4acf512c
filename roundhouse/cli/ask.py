"""`roundhouse ask`: one question, over documents if there are any."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from contextlib import aclosing
from typing import Annotated, Any

import typer
from msgspec import structs

from roundhouse.cli.common import ConfigOption, JSONOption, load_said, print_json, progress, settings_of, tell
from roundhouse.core.chat import Answer, Sampling, Timings, Usage, collect
from roundhouse.core.errors import InvalidRequest
from roundhouse.core.report import Report
from roundhouse.gateway import Gateway
from roundhouse.gateway.documents import read_documents

__all__ = ["ask"]


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", "-c", help="A document to ask about; - is standard input. Repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Route or target.")] = "",
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Prompt that puts question and document together.")
    ] = "rag_query",
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the answer as it comes.")] = True,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 = always the likeliest token.")] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Ask a question; with --context, about those documents.

    The answer goes to standard output; one line with target, tokens and times to standard error.
    """
    if not question.strip():
        raise InvalidRequest("the question is empty; ask something", param="question")
    document = read_documents(context, sys.stdin.buffer if sys.stdin else None) if context else ""
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
    gateway = Gateway(settings_of(config))
    asyncio.run(
        _ask(gateway, question, document, prompt, model, sampling, stream=stream and not as_json, as_json=as_json)
    )


async def _ask(
    gateway: Gateway,
    question: str,
    document: str,
    prompt: str,
    model: str,
    sampling: Sampling,
    *,
    stream: bool,
    as_json: bool,
) -> None:
    async with gateway:
        for notice in gateway.notices:
            tell(f"note: {notice}")
        with progress("loading the model", lambda: load_said(gateway.state()["memory"])):
            request, cut = await gateway.question(question, document, prompt=prompt, model=model)
            reply = gateway.stream(structs.replace(request, sampling=sampling))
            first = await anext(reply.chunks)
        if cut:
            reply.report.warnings.append(f"the document was cut: {cut}")
            tell(f"note: the document was cut: {cut}")
        pieces = [first]
        async with aclosing(reply.chunks) as chunks:
            if stream:
                print(first.text, end="", flush=True)
            async for chunk in chunks:
                pieces.append(chunk)
                if stream:
                    print(chunk.text, end="", flush=True)
        answer = collect(pieces)
    if as_json:
        print_json(_as_json(answer, reply.report))
        return
    print("" if stream else answer.text, flush=True)
    tell(_summary(answer, reply.report))


def _summary(answer: Answer, report: Report) -> str:
    usage, timings = answer.usage, answer.timings
    ended = "" if answer.finish_reason == "stop" else f" · ended by {answer.finish_reason}"
    moved = "" if len(report.attempts) < 2 else f" · after {len(report.attempts) - 1} failed"
    speed = f"{timings.tokens_per_s:.0f} tokens/s" if timings.tokens_per_s else "speed unknown"
    return (
        f"[{report.target} · {report.model} · {usage.prompt_tokens} + {usage.completion_tokens} tokens · "
        f"first token {timings.first_token_s * 1000:.0f} ms · {speed}{ended}{moved}]"
    )


def _as_json(answer: Answer, report: Report) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "route": report.route,
        "target": report.target,
        "model": report.model,
        "usage": _usage(answer.usage),
        "timings": _timings(answer.timings),
        "attempts": [dataclasses.asdict(attempt) for attempt in report.attempts],
        "warnings": report.warnings,
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {**structs.asdict(usage), "total_tokens": usage.total_tokens}


def _timings(timings: Timings) -> dict[str, float]:
    return {name: round(value, 4) for name, value in structs.asdict(timings).items()}
