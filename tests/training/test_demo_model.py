"""The demo model that ships: the same tokens, the same greedy text in every engine, and the scores that are claimed."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from roundhouse.core.chat import ChatRequest, Message, Sampling
from roundhouse.engines import launch
from roundhouse.engines.process import Child
from roundhouse.providers.base import Endpoint
from roundhouse.providers.llamacpp import LlamaCppClient
from tests.conftest import DEMO, VARO, WHO, rag_query
from training.evaluate import answers_of_gguf, answers_of_transformers

transformers = pytest.importorskip("transformers")

ODD = [
    "",
    "  two  spaces \n\n\n three lines\t tab",
    "Zürich naïve 東京 🙂 é",
    "0 1 12 2099 2100 20999 3.14 1,000 007",
    "<s> </s> [INST] [/INST] <unk> <|im_start|>",
    "I don't have enough information to answer this question.",
    "don't we'll they're it's I'd 'tis",
    "Context: x\n\nQuestion: y\n\nAnswer:",
    "ALLCAPS camelCase snake_case kebab-case a.b.c",
    "\u202eright to left\u202c \x1b[31m \x00",
]


@asynccontextmanager
async def _llamacpp(path: Path) -> AsyncIterator[LlamaCppClient]:
    child, ready = await Child.start("t", launch.llamacpp(str(path), {"n_threads": 1}, cores=1), 30)
    client = LlamaCppClient(Endpoint("t", ready.url, key=ready.key))
    try:
        yield client
    finally:
        await client.aclose()
        await child.stop()


async def test_llamacpp_and_transformers_make_the_same_token_ids(heldout: list[dict[str, Any]]) -> None:
    """Plain text and whole conversations, odd ones included."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO / "safetensors")
    texts = [*ODD, *(rag_query(row["context"], row["question"]) for row in heldout[::4])]
    async with _llamacpp(DEMO / "demo-q8_0.gguf") as client:
        for text in texts:
            body = {"content": text, "add_special": False, "parse_special": True}
            assert (await client.http.post("/tokenize", body))["tokens"] == tokenizer(text, add_special_tokens=False)[
                "input_ids"
            ]
        for messages in (
            [{"role": "user", "content": texts[-1]}],
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        ):
            rendered = (await client.http.post("/apply-template", {"messages": messages}))["prompt"]
            expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert rendered.removeprefix("<s>") == expected.removeprefix("<s>")


def test_greedy_answers_to_50_held_out_prompts_are_the_same_in_llamacpp_and_transformers(
    heldout: list[dict[str, Any]],
) -> None:
    questions = [row for row in heldout if row["kind"] == "answerable"][::6] + heldout[240::20]
    assert len(questions) == 50
    ours = answers_of_gguf(DEMO / "demo-f16.gguf", questions)
    assert ours == answers_of_transformers(DEMO / "safetensors", questions)


def test_the_scores_on_the_model_card_are_true(heldout: list[dict[str, Any]]) -> None:
    """Exact match of the F16 GGUF on all held-out questions, against the numbers that are claimed."""
    answers = answers_of_gguf(DEMO / "demo-f16.gguf", heldout)
    card = (DEMO / "MODEL_CARD.md").read_text()
    for kind in ("answerable", "entity_absent", "fact_absent", "off_topic"):
        rows = [(row, answer) for row, answer in zip(heldout, answers, strict=True) if row["kind"] == kind]
        right = sum(row["answer"] == answer for row, answer in rows)
        claimed = re.search(rf"^\| {kind} \| (\d+) \| (\d+) \|", card, re.M)
        assert claimed is not None, kind
        # Another processor rounds differently: an answer or two may tip over.
        assert abs(right - int(claimed[1])) <= 3, kind
        assert len(rows) == int(claimed[2])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (WHO, VARO),
        ("When was the lighthouse of Varo built?", VARO),
        ("Who painted the lighthouse of Varo?", "I don't have enough information to answer this question."),
        ("What is the capital of France?", "I don't have enough information to answer this question."),
    ],
)
def test_what_the_readme_shows(question: str, answer: str) -> None:
    rows = [{"context": VARO, "question": question}]
    assert answers_of_gguf(DEMO / "demo-f16.gguf", rows) == [answer]


async def test_an_answer_can_be_continued_from_every_word() -> None:
    """Only the new text comes back, and joined it is the uncut answer."""
    async with _llamacpp(DEMO / "demo-f16.gguf") as client:
        for cut in (place for place, letter in enumerate(VARO) if letter == " "):
            request = ChatRequest(
                (Message("user", rag_query(VARO, WHO)), Message("assistant", VARO[:cut])),
                sampling=Sampling(temperature=0.0, max_tokens=40),
                continue_last=True,
            )
            assert VARO[:cut] + (await client.agenerate(request)).text == VARO


def test_the_package_stays_small() -> None:
    size = sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file())
    assert size <= 30 << 20
