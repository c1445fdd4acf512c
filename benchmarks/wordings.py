"""Which wording of `rag_query` is better? Asked of live traffic, through a running server, with feedback.

    make wordings

The demo model answers its held-out questions, whose right answers are known, in its trained wording or in a worse one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.apart import apart
from roundhouse.gateway.demo import demo_gguf

__all__ = ["compare"]

_AT_ONCE = 4
_CONFIG = """
llm:
  providers: [{type: llamacpp, model: demo}]
  prompt_templates:
    rag_worse: "{question}\\n\\nThink of this first: {context}"
experiments:
  wording:
    prompt: rag_query
    arms: {trained: {}, worse: {prompt: rag_worse}}
    metric: correct
    guardrails: {error: 0.05}
    least: 20
    planned: 400
"""


def compare(folder: Path, most: int) -> dict[str, Any]:
    """The status of the experiment after `most` questions. `folder` takes configuration and state."""
    config = folder / "config.yaml"
    config.write_text(_CONFIG)
    environ = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    command = [sys.executable, "-m", "roundhouse"]
    named = ["--config", str(config)]
    subprocess.run([*command, "experiment", "start", "wording", *named], env=environ, check=True, capture_output=True)
    server = subprocess.Popen(
        [*command, "serve", "--port", "0", *named],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().removeprefix("listening on ").strip()
        asyncio.run(_ask_all(url, _questions()[:most]))
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()
    shown = subprocess.run(
        [*command, "experiment", "status", "wording", *named, "--json"], env=environ, check=True, capture_output=True
    )
    told: dict[str, Any] = json.loads(shown.stdout)
    return told


def _questions() -> list[dict[str, Any]]:
    """Every third one first, so that each beginning of the list has all kinds."""
    rows = [json.loads(line) for line in (demo_gguf().parent / "heldout.jsonl").read_text().splitlines()]
    return [row for first in range(3) for row in rows[first::3]]


async def _ask_all(url: str, questions: list[dict[str, Any]]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession() as session:

        async def ask(number: int, row: dict[str, Any]) -> None:
            values = {"context": row["context"], "question": row["question"]}
            own = {"prompt": "rag_query", "variables": values, "experiment_unit": f"user-{number}"}
            body = {"roundhouse": own, "max_tokens": 64, "temperature": 0}
            async with gate:
                answer = await _posted(session, f"{url}/chat/completions", body)
                right = answer["choices"][0]["message"]["content"].strip() == row["answer"]
                await _posted(session, f"{url}/feedback", {"id": answer["id"], "metric": "correct", "value": right})

        async with asyncio.TaskGroup() as group:
            for number, row in enumerate(questions):
                group.create_task(ask(number, row))


async def _posted(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(url, json=body) as response:
        told: dict[str, Any] = await response.json()
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status}: {told}")
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=400)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = compare(Path(folder), asked.questions)
    (found,) = told["comparisons"]
    by_intention, units, ratio = found["by_intention"], told["units"], told["sample_ratio"]["by_intention"]
    inside = by_intention["interval"]
    print(f"{told['decision']}: {told['said']}")
    print(f"  trained: {by_intention['control']:.1%} right of {units['trained']} questions")
    print(f"  worse:   {by_intention['other']:.1%} right of {units['worse']} questions")
    print(
        f"  worse - trained: {inside['estimate']:+.3f}, 95% at every look [{inside['low']:+.3f}, {inside['high']:+.3f}]"
    )
    print(f"  sample ratio: {'MISMATCH' if ratio >= 1000 else 'no mismatch'} (e-value {ratio:.3g}, alarm at 1000)")


if __name__ == "__main__":
    with apart():
        main()
