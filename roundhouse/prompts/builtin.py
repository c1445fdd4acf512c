"""Prompts that come with the house; a template of the same name in the configuration takes the place of one."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BUILTIN", "REFUSAL"]

REFUSAL = "I don't have enough information to answer this question."

BUILTIN: Mapping[str, str] = {
    "rag_query": (
        "Context: {context}\n\n"
        "Question: {question}\n\n"
        "Answer based on the context above. If the context doesn't contain \n"
        f'relevant information, say "{REFUSAL}"\n\n'
        "Answer:"
    ),
    "summarization": "Summarize the following text in 2-3 sentences:\n\n{text}",
}
