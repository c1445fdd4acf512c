"""`roundhouse faults`: a backend that fails on demand, and a runner that watches a gateway survive it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from roundhouse.cli.common import JSONOption, print_json
from roundhouse.faults.cases import CASES

__all__ = ["app"]

app = typer.Typer(help="Test how a gateway survives failing backends.", no_args_is_help=True)


@app.command("serve")
def serve(
    port: Annotated[int, typer.Option(help="Port of the faulty backend; 0 = any.")] = 9101,
    spare_port: Annotated[int, typer.Option(help="Port of the healthy backend.")] = 9102,
    control_port: Annotated[int, typer.Option(help="Port of the control interface.")] = 9100,
) -> None:
    """Two backends for a gateway to stand before: one that fails as it is told, and one that does not."""
    asyncio.run(_serve(port, spare_port, control_port))


async def _serve(port: int, spare_port: int, control_port: int) -> None:
    from roundhouse.faults.backend import backends

    async with backends(port, spare_port, control_port) as both:
        print(f"faulty   {both.faulty.url}/v1   (the first choice of the model that is tested)")
        print(f"spare    {both.spare.url}/v1   (its fallback)")
        print(f"control  http://127.0.0.1:{both.control}", flush=True)
        await asyncio.Event().wait()


@app.command("run")
def run(
    url: Annotated[str, typer.Option(help="The gateway's OpenAI base URL, ending in /v1.")] = "",
    key: Annotated[str, typer.Option(help="Its key.", envvar="ROUNDHOUSE_FAULTS_KEY")] = "",
    model: Annotated[str, typer.Option(help="A model behind which both backends stand.")] = "faults",
    control: Annotated[str, typer.Option(help="The control interface of `faults serve`.")] = "http://127.0.0.1:9100",
    own: Annotated[bool, typer.Option("--own", help="Test this Roundhouse: start backends and server here.")] = False,
    scale: Annotated[float, typer.Option(min=0.001, help="Multiplies all times of the faults.")] = 1.0,
    case: Annotated[list[str] | None, typer.Option(help="Only this case; repeatable.")] = None,
    write: Annotated[Path | None, typer.Option(help="Renew the scorecard in this page.")] = None,
    as_json: JSONOption = False,
) -> None:
    """Drive a gateway through every failure, streaming and not, and judge what its client saw."""
    if not (url or own):
        raise typer.BadParameter("give the gateway's --url, or --own to test this Roundhouse")
    names = tuple(case or ())
    if unknown := set(names) - {known.name for known in CASES}:
        raise typer.BadParameter(f"there is no case {min(unknown)}; there are {', '.join(one.name for one in CASES)}")
    results = asyncio.run(_run(url, key, model, control, own, scale, names, as_json))
    failed = [result for result in results if result["fault"]]
    if as_json:
        print_json({"passed": len(results) - len(failed), "failed": len(failed), "results": results})
    else:
        print(f"{len(results) - len(failed)} of {len(results)} passed")
    if write is not None:
        from roundhouse.faults.scorecard import renewed

        write.write_text(renewed(write.read_text(), results, scale))
    if failed:
        raise typer.Exit(1)


async def _run(
    url: str, key: str, model: str, control: str, own: bool, scale: float, names: tuple[str, ...], as_json: bool
) -> list[dict[str, Any]]:
    from roundhouse.faults import runner
    from roundhouse.faults.backend import backends
    from roundhouse.faults.house import MODEL, configuration, serving

    results = []
    async with AsyncExitStack() as stack:
        if own:
            both = await stack.enter_async_context(backends())
            control, model = f"http://127.0.0.1:{both.control}", MODEL
            url = await stack.enter_async_context(serving(configuration(both, scale)))
        async for result in runner.run(url, key, model, control, scale=scale, names=names):
            results.append(result.as_dict())
            if not as_json:
                kind = "stream" if result.streaming else "whole "
                verdict = f"FAILED: {result.fault}" if result.fault else "passed"
                print(f"{result.case.name:22} {kind}  {verdict:24} {result.seen.seconds:6.2f} s", flush=True)
    return results
