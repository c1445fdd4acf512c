"""All prompts of a house by name: which wording a request gets, and by which version or label.

A later source takes the place of an earlier one: what comes with the house, then the folder, then the configuration.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from roundhouse.core.errors import TemplateError
from roundhouse.prompts.families import FAMILIES, recognise
from roundhouse.prompts.prompt import DEFAULT_VARIANT, Prompt, Variant
from roundhouse.prompts.variables import Variable

__all__ = ["Catalog", "from_texts"]

_SUFFIXES = (*(family.name for family in FAMILIES), DEFAULT_VARIANT)


@dataclass(frozen=True, slots=True)
class Catalog:
    """`prompts` by name as they are now; `kept` are earlier versions by (name, version); `labels` by (name, label)."""

    prompts: Mapping[str, Prompt]
    kept: Mapping[tuple[str, str], Prompt] = field(default_factory=dict)
    labels: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts.values())

    def over(self, earlier: Catalog) -> Catalog:
        """These prompts, and those of `earlier` that have no namesake."""
        return Catalog(
            {**earlier.prompts, **self.prompts}, {**earlier.kept, **self.kept}, {**earlier.labels, **self.labels}
        )

    def find(self, name: str) -> Prompt:
        """A prompt by `name`, `name@label`, `name@version` (or its first digits), `name_family`.

        Raises `TemplateError` with the near name.
        """
        base, _, wanted = name.partition("@")
        prompt = self.prompts.get(base) or self._only_variant(base)
        if prompt is None:
            near = difflib.get_close_matches(base, self.prompts, n=1)
            said = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(sorted(self.prompts))}"
            raise TemplateError(f'there is no prompt "{base}"; {said}', template=base)
        return self._version(prompt, wanted) if wanted else prompt

    def choose(self, use_case: str, model_type: str) -> tuple[Prompt, str, str]:
        """Prompt, wording and family for `model_type`: a prompt called `use_case_model_type`, then the wording for that
        model or family, then the default.
        """
        prompt = self.prompts.get(f"{use_case}_{model_type}") or self.find(use_case)
        known = {family.name for family in FAMILIES}
        family = model_type if model_type in known else recognise(model_type).name
        return prompt, prompt.choose(model_type, family)[0], family

    def _only_variant(self, name: str) -> Prompt | None:
        """`rag_query_mistral`: that wording of `rag_query` for everybody."""
        for suffix in _SUFFIXES:
            prompt = self.prompts.get(name.removesuffix(f"_{suffix}"))
            if prompt is not None and name.endswith(f"_{suffix}") and suffix in prompt.variants:
                return replace(prompt, name=name, variants={DEFAULT_VARIANT: prompt.variants[suffix]})
        return None

    def _version(self, prompt: Prompt, wanted: str) -> Prompt:
        version = self.labels.get((prompt.name, wanted), wanted)
        if prompt.version.startswith(version) and len(version) >= 4:
            return prompt
        found = [kept for (name, held), kept in self.kept.items() if name == prompt.name and held.startswith(version)]
        if len(found) == 1:
            return found[0]
        labels = [label for name, label in self.labels if name == prompt.name]
        versions = [prompt.version, *(held for name, held in self.kept if name == prompt.name)]
        raise TemplateError(
            f'prompt "{prompt.name}" has no label or version "{wanted}"; it has {", ".join([*labels, *versions])}',
            template=prompt.name,
        )


def from_texts(texts: Mapping[str, str | Mapping[str, str]], source: str, earlier: Catalog) -> Catalog:
    """The catalogue of a configuration's `prompt_templates` over `earlier`.

    A text replaces the prompt whole; a mapping has a wording per family, `default` for the others; `rag_query_mistral`
    beside `rag_query` is the wording of the latter for that family. Raises `TemplateError` for a bad template.
    """
    found: dict[str, Prompt] = {}
    later: list[tuple[str, str, str]] = []
    for name, given in texts.items():
        if isinstance(given, str):
            suffix = next((one for one in _SUFFIXES if name.endswith(f"_{one}") and name != f"_{one}"), "")
            if suffix:
                later.append((name.removesuffix(f"_{suffix}"), suffix, given))
                continue
        wordings = {DEFAULT_VARIANT: given} if isinstance(given, str) else given
        variants = {key: Variant.of(text, name, source) for key, text in wordings.items()}
        found[name] = Prompt(name, variants, _types(earlier, name, variants.values()))
    for base, suffix, text in later:
        prompt = found.get(base) or earlier.prompts.get(base)
        variant = Variant.of(text, f"{base}_{suffix}", source)
        variants = {**(prompt.variants if prompt else {}), suffix: variant}
        if DEFAULT_VARIANT not in variants:
            # Nothing else is known of it: it is what everybody gets.
            variants[DEFAULT_VARIANT] = variant
        found[base] = replace(prompt, variants=variants) if prompt else Prompt(base, variants)
    return Catalog(found).over(earlier)


def _types(earlier: Catalog, name: str, variants: Iterable[Variant]) -> Mapping[str, Variable]:
    """What is known of a variable stays known under other words, such as that a context may be cut."""
    known = earlier.prompts[name].declared if name in earlier.prompts else {}
    used = {variable for variant in variants for variable in variant.variables}
    return {variable: one for variable, one in known.items() if variable in used}
