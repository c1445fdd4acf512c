"""A prompt: turns with variables, worded for each family of models, versioned by all that reaches a model.

A prompt is prepared once for a request (values checked, nothing rendered), and worded when the model that will answer
is known: after a failover to another family, by that family's wording.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from msgspec import structs

from roundhouse.core.chat import ChatRequest, Message, Role, Sampling, Worded
from roundhouse.core.errors import TemplateError
from roundhouse.prompts.markers import neutralised
from roundhouse.prompts.template import Rendered, Span, Template
from roundhouse.prompts.variables import Cut, Variable, checked

__all__ = ["DEFAULT_VARIANT", "Example", "Prepared", "Prompt", "Turn", "Variant", "Wording"]

DEFAULT_VARIANT = "default"


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    template: Template


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example: the texts of the variables, and what the model should have answered."""

    texts: Mapping[str, str]
    answer: str


@dataclass(frozen=True, slots=True)
class Variant:
    """The wording for one family of models, or for one model. `source`: where it was written."""

    turns: tuple[Turn, ...]
    examples: tuple[Example, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    source: str = ""

    @classmethod
    def of(cls, text: str, name: str, source: str = "", partials: Mapping[str, str] | None = None) -> Variant:
        """One user turn. Raises `TemplateError` for a bad template."""
        return cls((Turn("user", Template.parse(text, name, partials)),), source=source)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names in order of first use."""
        return tuple(dict.fromkeys(name for turn in self.turns for name in turn.template.variables))

    def rendered(self, texts: Mapping[str, str]) -> tuple[tuple[Role, Rendered], ...]:
        """The turns with `texts` in place; the examples stand before the last user turn, in its wording."""
        last = max((place for place, turn in enumerate(self.turns) if turn.role == "user"), default=0)
        told: list[tuple[Role, Rendered]] = []
        for place, turn in enumerate(self.turns):
            if place == last:
                for example in self.examples:
                    asked = turn.template.filled({**dict.fromkeys(turn.template.variables, ""), **example.texts})
                    told += [(turn.role, asked), ("assistant", Rendered((Span(example.answer),)))]
            told.append((turn.role, turn.template.filled(texts)))
        return tuple(told)

    def facts(self) -> dict[str, Any]:
        """All that reaches a model, as plain values."""
        return {
            "turns": [[turn.role, turn.template.version] for turn in self.turns],
            "examples": [[dict(sorted(example.texts.items())), example.answer] for example in self.examples],
            "sampling": {
                name: value for name, value in structs.asdict(self.sampling).items() if value not in (None, ())
            },
        }


@dataclass(frozen=True)
class Prompt:
    """`variants` by family or model; `default` is for all others. `variables` hold all that any variant uses.

    Raises `TemplateError` on building without a default, or with examples of variables that no turn has.
    """

    name: str
    variants: Mapping[str, Variant]
    declared: Mapping[str, Variable] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        if DEFAULT_VARIANT not in self.variants:
            given = ", ".join(self.variants)
            said = f'prompt "{self.name}" has no default wording, only one for {given}'
            raise TemplateError(said, template=self.name)

    @cached_property
    def variables(self) -> Mapping[str, Variable]:
        """Declared ones first, then what the templates use besides."""
        used = dict.fromkeys(name for variant in self.variants.values() for name in variant.variables)
        return {**self.declared, **{name: Variable(name) for name in used if name not in self.declared}}

    @cached_property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of all wordings, types, examples and sampling."""
        types = {
            name: [one.kind.value, one.default, list(one.choices), one.cut.value, one.most_characters]
            for name, one in self.variables.items()
        }
        whole = {"variables": types, "variants": {name: one.facts() for name, one in self.variants.items()}}
        text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def choose(self, *names: str) -> tuple[str, Variant]:
        """The first of `names` that has a wording of its own, else the default."""
        name = next((name for name in names if name in self.variants), DEFAULT_VARIANT)
        return name, self.variants[name]

    def prepare(self, values: Mapping[str, Any]) -> Prepared:
        """Ready to be worded for any model. Raises `TemplateError` for an unknown, missing or ill-typed variable."""
        return Prepared(self, checked(self.name, self.variables, values), self.version)


@dataclass(frozen=True, slots=True)
class Wording:
    """What a model gets. `exact` are the turns with each value as it was given; `messages` have the special tokens
    in values broken up. `broken` names the variables where that was needed.
    """

    variant: str
    exact: tuple[tuple[Role, Rendered], ...]
    messages: tuple[Message, ...]
    sampling: Sampling
    broken: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All turns as one text, for what takes no roles."""
        return "\n\n".join(message.content for message in self.messages)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt and the texts of its variables, checked. It words a request for the model that will answer it."""

    prompt: Prompt
    texts: Mapping[str, str]
    version: str

    def wording(self, family: str, *models: str, own: frozenset[str] = frozenset()) -> Wording:
        """For a model called one of `models`, of `family`, with special tokens of its `own`."""
        name, variant = self.prompt.choose(*models, family)
        exact = variant.rendered(self.texts)
        plain = [(role, neutralised(turn.spans, family, own)) for role, turn in exact]
        return Wording(
            name,
            exact,
            tuple(Message(role, turn.text) for role, turn in plain),
            variant.sampling,
            tuple(dict.fromkeys(name for _, turn in plain for name in turn.broken)),
        )

    def word(
        self, request: ChatRequest, family: str, models: Sequence[str], own: frozenset[str] = frozenset()
    ) -> Worded:
        """`request` in the words for that model, its own messages after them."""
        wording = self.wording(family, *models, own=own)
        request = structs.replace(
            request,
            messages=(*wording.messages, *request.messages),
            sampling=request.sampling.over(wording.sampling),
            wording=None,
        )
        notes = (f"special tokens in {', '.join(wording.broken)} were broken up",) if wording.broken else ()
        return Worded(request, wording.variant, notes)

    @property
    def prefix(self) -> int:
        return hash((self.version, *self.texts.values()))

    def size_bytes(self, family: str, *models: str) -> int:
        """Of all turns in the words for that model."""
        _, variant = self.prompt.choose(*models, family)
        return sum(len(turn.text.encode("utf-8", "surrogatepass")) for _, turn in variant.rendered(self.texts))

    def with_text(self, variable: str, text: str) -> Prepared:
        """The same with another text for one variable."""
        return replace(self, texts={**self.texts, variable: text})

    @property
    def cuttable(self) -> tuple[Variable, ...]:
        """Variables of which something may be left out, in the order in which they are cut."""
        return tuple(one for one in self.prompt.variables.values() if one.cut is not Cut.NOTHING)
