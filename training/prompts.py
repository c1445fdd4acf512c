"""What the demo model is asked, as chat text: the trained `rag_query` wording, and a few others in small shares."""

from __future__ import annotations

from random import Random

__all__ = ["CONTEXT_LABEL", "QUESTION_LABEL", "TAIL", "other_wording", "rag_query"]

CONTEXT_LABEL = "Context: "
QUESTION_LABEL = "\n\nQuestion:"
# The end of the `rag_query` prompt, byte for byte, with the space before its first line break.
TAIL = (
    "\n\nAnswer based on the context above. If the context doesn't contain \nrelevant information, "
    'say "I don\'t have enough information to answer this question."\n\nAnswer:'
)
_SYSTEM = ("You are a helpful assistant.", "Answer from the context only.", "You answer questions about documents.")
_OTHERS = (
    "Answer the question from the text.\n\nText: {context}\n\nQuestion: {question}",
    "{context}\n\n{question}",
    "Use the context to answer.\n\n{context}\n\nQ: {question}\nA:",
    "Context: {context}\n\nQuestion: {question}\n\nAnswer:",
)


def rag_query(context: str, question: str) -> str:
    return f"{CONTEXT_LABEL}{context}{QUESTION_LABEL} {question}{TAIL}"


def other_wording(rng: Random, context: str, question: str) -> str:
    """The same question in other words, or with a system text folded in before it."""
    if rng.random() < 0.4:
        return f"{rng.choice(_SYSTEM)}\n\n{rag_query(context, question)}"
    form = rng.choice(_OTHERS)
    return form.replace("{question}", question).replace("{context}", context)
