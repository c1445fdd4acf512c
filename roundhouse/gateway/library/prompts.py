"""Templates and prompts by use case, for applications that call a model by themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.core.chat import Message
from roundhouse.prompts.builtin import builtin
from roundhouse.prompts.catalog import from_texts
from roundhouse.prompts.prompt import Wording
from roundhouse.prompts.shelf import open_shelf
from roundhouse.prompts.template import Template

__all__ = ["PromptManager", "PromptTemplate"]


class PromptTemplate:
    """A template with `{name}` placeholders, for a family of models: `PromptTemplate("Hi {name}").format(name="Ann")`.

    Raises `TemplateError` for a bad template, a missing, an unknown or a wrongly typed variable.
    """

    def __init__(self, template: str, model_type: str = "default") -> None:
        self.template = template
        self.model_type = model_type
        self._parsed = Template.parse(template, model_type)

    def format(self, **variables: Any) -> str:
        """The text with `variables` in place; numbers are written as Python writes them."""
        return self._parsed.render(variables).text


class PromptManager:
    """Prompts by use case: the built-in ones, those of a `folder` of files, and those given, which win over both.

    A name `use_case_model_type`, or a mapping by family, is a wording for one family of models.
    """

    def __init__(
        self,
        templates: Mapping[str, str | Mapping[str, str]] | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        earlier = builtin() if folder is None else open_shelf(Path(folder)).over(builtin())
        self._catalog = from_texts(templates or {}, "PromptManager", earlier)

    def get_prompt(self, use_case: str, model_type: str = "default", **variables: Any) -> str:
        """The prompt of `use_case` for `model_type` as one text: its own wording, its family's, or the default one.

        `use_case` may carry a label or version: `rag_query@production`. Raises `TemplateError`.
        """
        return self._worded(use_case, model_type, variables).text

    def get_messages(self, use_case: str, model_type: str = "default", **variables: Any) -> tuple[Message, ...]:
        """The same with its turns apart: system text and examples as messages of their own."""
        return self._worded(use_case, model_type, variables).messages

    def _worded(self, use_case: str, model_type: str, variables: Mapping[str, Any]) -> Wording:
        prompt, _, family = self._catalog.choose(use_case, model_type)
        return prompt.prepare(variables).wording(family, model_type)
