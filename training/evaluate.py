"""Exact match of greedy answers on the held-out questions, through llama.cpp or transformers.

    python -m training.evaluate --model roundhouse/demo/demo-f16.gguf
    python -m training.evaluate --model roundhouse/demo/safetensors

With `--card`, the model card that ships is written from the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.gateway import Gateway
from roundhouse.store.headers import read_gguf
from training.data import REFUSAL
from training.prompts import rag_query

__all__ = ["answers_of_gguf", "answers_of_transformers", "card", "read_questions"]

Question = dict[str, Any]
_MOST_TOKENS = 64


def read_questions(path: Path) -> list[Question]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers_of_gguf(model: Path, questions: Sequence[Question]) -> list[str]:
    """Greedy answers by llama.cpp, as a user's request gets them."""
    settings = load_mapping({"llm": {"providers": [{"type": "llamacpp", "model": str(model), "n_threads": 1}]}})

    at_once = asyncio.Semaphore(8)

    async def answer(gateway: Gateway, question: Question) -> str:
        request = ChatRequest.of(
            rag_query(question["context"], question["question"]),
            sampling=Sampling(temperature=0.0, max_tokens=_MOST_TOKENS),
        )
        async with at_once:
            return (await gateway.generate(request)).answer.text

    async def run() -> list[str]:
        async with Gateway(settings) as gateway:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(gateway, question)) for question in questions]
            return [task.result() for task in tasks]

    return asyncio.run(run())


def answers_of_transformers(folder: Path, questions: Sequence[Question]) -> list[str]:
    """Greedy answers by transformers, computed in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for question in questions:
        messages = [{"role": "user", "content": rag_query(question["context"], question["question"])}]
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            told = model.generate(**asked, do_sample=False, max_new_tokens=_MOST_TOKENS)
        answers.append(tokenizer.decode(told[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


def _table(questions: Sequence[Question], answers: Sequence[str]) -> str:
    """A row per kind and per number of sentences: right, asked, share."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        right = answer == question["answer"]
        if question["kind"] == "answerable":
            groups[f"answerable, {question['sentences']} sentences"].append(right)
            groups["answerable"].append(right)
        else:
            groups[question["kind"]].append(right)
            groups["unanswerable"].append(right)
    lines = ["| questions | right | asked | exact match |", "|---|---|---|---|"]
    lines += [f"| {name} | {sum(g)} | {len(g)} | {sum(g) / len(g):.3f} |" for name, g in sorted(groups.items())]
    return "\n".join(lines)


_CARD = """# Roundhouse demo model

A toy: {parameters:.1f} million parameters of the Mistral architecture, trained from scratch on made-up sentences by the
scripts in `training/`. Asked with the built-in `rag_query` prompt, it quotes the sentence of the context that answers
the question, or says "{refusal}"
It knows nothing, reasons about nothing and handles a few sentences of a few kinds; it is there so that Roundhouse can
be tried, tested and measured without a download. Never use it for real answers.

- Licence: Apache-2.0 (weights, tokenizer and data set)
- Files: `safetensors/` (float16), `demo-f16.gguf` (the same values), `demo-q8_0.gguf`, `heldout.jsonl`
- Context: 1,024 tokens; greedy decoding

Exact match of greedy answers on {number} held-out questions about names that no training sentence had
(`python -m training.evaluate --model roundhouse/demo/demo-f16.gguf`):

{table}
"""


def card(model: Path, questions: Sequence[Question], answers: Sequence[str]) -> str:
    """The model card, from what was measured."""
    parameters = read_gguf(model).weight_bytes / 2 / 1e6
    return _CARD.format(parameters=parameters, refusal=REFUSAL, number=len(questions), table=_table(questions, answers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--questions", type=Path, default=Path("roundhouse/demo/heldout.jsonl"))
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers")
    parser.add_argument("--card", type=Path, help="write the model card here")
    asked = parser.parse_args()
    questions = read_questions(asked.questions)
    answers = (answers_of_transformers if asked.model.is_dir() else answers_of_gguf)(asked.model, questions)
    print(_table(questions, answers))
    if asked.card is not None:
        asked.card.write_text(card(asked.model, questions, answers))
    wrong = [(q, a) for q, a in zip(questions, answers, strict=True) if a != q["answer"]]
    for question, answer in wrong[: asked.show]:
        print(f"\n{question['context']}\n  {question['question']}\n  want {question['answer']}\n  got  {answer}")


if __name__ == "__main__":
    main()
