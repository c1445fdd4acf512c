"""A summary of every text file of a folder, several at once, by the library: no server is needed.

    python examples/summaries.py examples/town --out summaries.jsonl

Each summary is written as soon as it is there. Run again, only files that are new or have changed are asked about, so a
long run may be killed at any time. A text that is too long is summarised in parts, and then its summaries are. The demo
model only quotes, and not always rightly: name a real one in the configuration for summaries that can be used.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from roundhouse import ChatRequest, Error, LLMManager, PromptManager, Sampling

LONGEST_SUMMARY_TOKENS = 200


def parts_of(text: str, most: int) -> list[str]:
    """`text` in parts of at most `most` characters, cut between paragraphs, else between words."""
    parts, rest = [], text.strip()
    while len(rest) > most:
        cut = max(rest.rfind("\n\n", 1, most), 0) or max(rest.rfind(" ", 1, most), 0) or most
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [*parts, rest] if rest else parts


async def summary_of(manager: LLMManager, prompts: PromptManager, text: str, most: int) -> str:
    """Of a text of any length. Raises `Error` if no model answers."""
    parts = parts_of(text, most)
    while True:
        said = []
        for part in parts:
            messages = prompts.get_messages("summarization", text=part)
            request = ChatRequest(messages, sampling=Sampling(max_tokens=LONGEST_SUMMARY_TOKENS))
            said.append((await manager.agenerate(request)).text.strip())
        shorter = parts_of("\n\n".join(said), most)
        if len(said) == 1 or len(shorter) >= len(parts):  # there is nothing more to join
            return "\n\n".join(said)
        parts = shorter


def known_of(out: Path) -> set[tuple[str, str]]:
    """(file, hash) of the summaries that are there. The half line of a run that was killed is cut off."""
    if not out.exists():
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        out.write_bytes(whole)
    return {(one["file"], one["sha256"]) for one in map(json.loads, whole.splitlines())}


def texts_of(folder: Path, known: set[tuple[str, str]]) -> Iterator[tuple[str, bytes, str]]:
    """Name, contents and hash of the text files that have no summary yet."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".md")):
        data = path.read_bytes()
        name, digest = str(path.relative_to(folder)), hashlib.sha256(data).hexdigest()
        if (name, digest) not in known:
            yield name, data, digest


async def summarize(folder: Path, out: Path, config: Path | None, most: int, at_once: int) -> int:
    """How many files got no summary."""
    manager, prompts, gate = LLMManager(config), PromptManager(), asyncio.Semaphore(at_once)

    async def one(name: str, data: bytes, digest: str, file: TextIO) -> bool:
        try:
            text = data.decode("utf-8-sig")
            if not text.strip():
                raise ValueError("it is empty")
            async with gate:
                said = await summary_of(manager, prompts, text, most)
        except (ValueError, Error) as error:
            print(f"{name}: no summary: {error}", file=sys.stderr)
            return False
        file.write(json.dumps({"file": name, "sha256": digest, "summary": said}, ensure_ascii=False) + "\n")
        file.flush()
        print(f"{name}: {said}")
        return True

    known = known_of(out)
    try:
        with out.open("a", encoding="utf-8") as file:
            ends = await asyncio.gather(*(one(*text, file) for text in texts_of(folder, known)))
        return ends.count(False)
    finally:
        await manager.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description="Summarize the text files of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("summaries.jsonl"))
    parser.add_argument("--config", type=Path, help="configuration of Roundhouse; default: the one that it finds")
    parser.add_argument("--most", type=int, default=2000, help="characters that the model is given at once")
    parser.add_argument("--at-once", type=int, default=4, help="files under way at the same time")
    asked = parser.parse_args()
    if not asked.folder.is_dir():
        parser.error(f"there is no folder {asked.folder}")
    failed = asyncio.run(summarize(asked.folder, asked.out, asked.config, asked.most, asked.at_once))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
