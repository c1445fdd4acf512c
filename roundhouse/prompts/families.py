"""What each family of models wants, as data: how it takes a system text, how to sample from it, how to prompt it.

Sources: config.json and generation_config.json of mistralai/Mistral-7B-Instruct-v0.3, meta-llama/Llama-3.1-8B-Instruct,
microsoft/Phi-3-mini-4k-instruct, google/gemma-2-9b-it and Qwen/Qwen2.5-7B-Instruct, and their chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from msgspec.structs import replace

from roundhouse.core.chat import Message, Sampling

__all__ = ["DEFAULT", "FAMILIES", "Family", "Style", "SystemRole", "fit_roles", "recognise"]


class Style(Enum):
    """How a prompt for the family is best written."""

    PLAIN = "plain"
    STRUCTURED = "structured, rules right before the question"
    SYSTEM = "rules in the system text"
    CONCISE = "short, few or no examples"
    FOLDED = "rules in the first user turn"
    EXPLICIT = "an explicit system text always"


class SystemRole(Enum):
    """What becomes of a system text."""

    NATIVE = "a turn of its own"
    FOLDED = "the beginning of the first user turn"


@dataclass(frozen=True, slots=True)
class Family:
    """`sampling` holds where neither the request nor the target says otherwise; unset = the backend's own default.

    `alternating`: turns of user and assistant must alternate, so neighbours of one role are joined. `context_tokens`:
    the window its models were trained for. `markers` are found in its chat template, `architectures` and `names` in a
    model's files and name.
    """

    name: str
    style: Style = Style.PLAIN
    sampling: Sampling = field(default_factory=Sampling)
    context_tokens: int = 0
    system_role: SystemRole = SystemRole.NATIVE
    alternating: bool = False
    markers: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


DEFAULT = Family("default")
FAMILIES: tuple[Family, ...] = (
    Family(
        "llama3",
        Style.SYSTEM,
        Sampling(temperature=0.6, top_p=0.9, stop=("<|eot_id|>",)),
        131_072,
        markers=("<|start_header_id|>",),
        names=("llama3", "llama-3"),
    ),
    Family(
        "phi3",
        Style.CONCISE,
        Sampling(temperature=0.0, stop=("<|end|>",)),
        4_096,
        # Only its later template has a place for a system text; the older drops it in silence.
        system_role=SystemRole.FOLDED,
        architectures=("phi3",),
        names=("phi3", "phi-3"),
    ),
    Family(
        "gemma2",
        Style.FOLDED,
        Sampling(stop=("<end_of_turn>",)),
        8_192,
        system_role=SystemRole.FOLDED,
        alternating=True,
        markers=("<start_of_turn>",),
        architectures=("gemma2",),
        names=("gemma2", "gemma-2"),
    ),
    Family(
        "qwen2.5",
        Style.EXPLICIT,
        Sampling(temperature=0.7, top_p=0.8, top_k=20, repeat_penalty=1.05, stop=("<|im_end|>",)),
        32_768,
        markers=("You are Qwen",),
        architectures=("qwen2",),
        names=("qwen2.5",),
    ),
    Family(
        "mistral",
        Style.STRUCTURED,
        Sampling(temperature=0.7),
        32_768,
        alternating=True,
        markers=("[INST]",),
        architectures=("mistral",),
        names=("mistral",),
    ),
)


def recognise(name: str = "", architecture: str = "", chat_template: str = "") -> Family:
    """The family of a model, by what its own template says, else its architecture, else its name; `DEFAULT` if none."""
    for family in FAMILIES:
        if any(marker in chat_template for marker in family.markers):
            return family
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    plain = re.sub(r"[\s_]+", "-", name.lower())
    return next((family for family in FAMILIES if any(known in plain for known in family.names)), DEFAULT)


def fit_roles(messages: Sequence[Message], family: Family) -> tuple[Message, ...]:
    """The same words in turns that the family's template takes: nothing is dropped, nothing added but blank lines."""
    turns = list(messages)
    if family.system_role is SystemRole.FOLDED:
        system = [turn.content for turn in turns if turn.role == "system"]
        turns = [turn for turn in turns if turn.role != "system"]
        first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
        if system and first is not None:
            turns[first] = replace(turns[first], content="\n\n".join([*system, turns[first].content]))
        elif system:
            turns.insert(0, Message("user", "\n\n".join(system)))
    return tuple(_joined(turns) if family.alternating else turns)


def _joined(turns: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one turn; turns with tool calls or names stay as they are."""
    whole: list[Message] = []
    for turn in turns:
        last = whole[-1] if whole else None
        plain = not (turn.tool_calls or turn.tool_call_id or turn.name)
        if last is not None and plain and turn.role == last.role in ("user", "assistant") and not last.tool_calls:
            content = "\n\n".join(text for text in (last.content, turn.content) if text)
            whole[-1] = replace(last, content=content, images=last.images + turn.images)
        else:
            whole.append(turn)
    return whole
