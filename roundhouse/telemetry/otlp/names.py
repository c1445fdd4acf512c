"""What a request is called in OpenTelemetry: the GenAI conventions as they are now, and as they were in v1.36 to v1.41.

Source: github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md, client-embeddings.md and
non-normative/migration.md. The present names are in no package yet, so they stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roundhouse.core.trace import TraceContext
from roundhouse.telemetry.events import CLIENT_LEFT, GIVEN_UP, OK, EmbeddingsEnded, Followed, RequestTraced

__all__ = [
    "OPT_IN",
    "Attributes",
    "Backend",
    "Backends",
    "is_served",
    "of_attempt",
    "of_embeddings",
    "of_embeddings_call",
    "of_request",
    "wants_older",
]

Attributes = dict[str, Any]
OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_NO_ERROR = (OK, CLIENT_LEFT, GIVEN_UP)
_SAMPLING = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "stop": "stop_sequences",
}


@dataclass(frozen=True, slots=True)
class Backend:
    """Who answers for a target: the type of its provider, and where, if it is not an engine of ours."""

    provider: str
    address: str = ""
    port: int = 0


Backends = Mapping[str, Backend]


def wants_older(environ: Mapping[str, str]) -> bool:
    """Whether the older names are told beside the present ones: by `gen_ai/dup`, as other conventions have it."""
    return "gen_ai/dup" in (token.strip() for token in environ.get(OPT_IN, "").split(","))


def of_request(event: RequestTraced, backends: Backends) -> Attributes:
    """Of the span of a whole request, and, as far as they are bounded, of its metrics."""
    ended = event.ended
    prompt, _, version = ended.prompt.partition("@")
    numbers = {
        "gen_ai.response.time_to_first_chunk": ended.first_token_s,
        "gen_ai.usage.input_tokens": ended.input_tokens,
        "gen_ai.usage.output_tokens": ended.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": ended.cached_tokens,
        "roundhouse.queue_s": ended.queue_s,
        "roundhouse.load_s": ended.load_s,
        "roundhouse.added_s": ended.own_s,
        "roundhouse.seams": ended.seams,
    }
    names = {
        "gen_ai.prompt.name": prompt,
        "gen_ai.prompt.version": version,
        "roundhouse.target": ended.target,
        "roundhouse.prompt.variant": ended.variant,
        "roundhouse.experiment": ended.experiment,
        "roundhouse.arm": ended.arm,
    }
    return {
        **_common(_operation(event), backends.get(ended.target), ended.outcome),
        **_asked(event),
        "gen_ai.request.model": ended.route,
        "gen_ai.response.id": ended.request_id,
        **({"gen_ai.response.model": ended.model} if ended.model else {}),
        **({"gen_ai.response.finish_reasons": (event.finish_reason,)} if event.finish_reason else {}),
        "roundhouse.outcome": ended.outcome,
        **{name: value for name, value in (numbers | names).items() if value},
    }


def of_attempt(event: RequestTraced, attempt: Followed, backends: Backends) -> Attributes:
    """Of the span of one attempt."""
    found: Attributes = {
        **_common(_operation(event), backends.get(attempt.target), attempt.outcome),
        **_address(backends.get(attempt.target)),
        "gen_ai.request.model": attempt.model,
        "gen_ai.request.stream": True,
        "roundhouse.target": attempt.target,
        "roundhouse.replica": attempt.replica,
        "roundhouse.outcome": attempt.outcome,
    }
    if attempt.first_token_s is not None:
        found["gen_ai.response.time_to_first_chunk"] = attempt.first_token_s
    if attempt.outcome == OK:
        found["gen_ai.response.model"] = attempt.model
        found["gen_ai.response.finish_reasons"] = (event.finish_reason,)
        found["gen_ai.usage.input_tokens"] = event.ended.input_tokens
        found["gen_ai.usage.output_tokens"] = event.ended.output_tokens
        if event.ended.cached_tokens:
            found["gen_ai.usage.cache_read.input_tokens"] = event.ended.cached_tokens
    return found


def of_embeddings(event: EmbeddingsEnded, backends: Backends) -> Attributes:
    """Of the span of a request for embeddings, and, as far as they are bounded, of its metrics."""
    found: Attributes = {
        **_common("embeddings", backends.get(event.target), event.outcome),
        "gen_ai.request.model": event.route,
        "gen_ai.response.id": event.request_id,
        "roundhouse.outcome": event.outcome,
        "roundhouse.embeddings.texts": event.texts,
        "roundhouse.embeddings.shared": event.shared,
    }
    names = {"gen_ai.response.model": event.model, "roundhouse.target": event.target}
    numbers = {"gen_ai.embeddings.dimension.count": event.dimensions}
    return found | {name: value for name, value in (names | numbers).items() if value}


def of_embeddings_call(event: EmbeddingsEnded, call: Followed, backends: Backends) -> Attributes:
    """Of the span of a backend's call for embeddings. No backend of ours counts the tokens of texts it embeds."""
    backend = backends.get(call.target)
    found: Attributes = {
        **_common("embeddings", backend, call.outcome),
        **_address(backend),
        "gen_ai.request.model": call.model,
        "roundhouse.target": call.target,
        "roundhouse.outcome": call.outcome,
    }
    if call.outcome == OK:
        found["gen_ai.response.model"] = call.model
    return found | ({"gen_ai.embeddings.dimension.count": event.dimensions} if event.dimensions else {})


def _common(operation: str, backend: Backend | None, outcome: str) -> Attributes:
    """`roundhouse` is the provider of what nobody answered."""
    found: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": backend.provider if backend else "roundhouse",
    }
    if outcome not in _NO_ERROR:
        found["error.type"] = outcome
    return found


def _operation(event: RequestTraced) -> str:
    return "text_completion" if event.raw else "chat"


def _address(backend: Backend | None) -> Attributes:
    if backend is None or not backend.address:
        return {}
    return {"server.address": backend.address, "server.port": backend.port}


def _asked(event: RequestTraced) -> Attributes:
    values = ((told, getattr(event.sampling, name)) for name, told in _SAMPLING.items())
    return {f"gen_ai.request.{told}": value for told, value in values if value not in (None, ())}


def is_served(trace: TraceContext) -> bool:
    """Whether somebody else asked for it over the network: its parent, if it has one, is not in this process."""
    return trace.remote or not trace.parent_id
