"""Every path of the server in one table: what answers, who may ask, what a body must be. The router, the guard and the
OpenAPI document read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp

from roundhouse.access.keys import Role
from roundhouse.server.admin_api import (
    Command,
    Decision,
    Decisions,
    LiveFeed,
    Nothing,
    Orders,
    State,
    SwitchAsked,
    SwitchStatus,
    TargetAsked,
)
from roundhouse.server.answering import Answering
from roundhouse.server.anthropic_wire import Anthropic, AnthropicBody, CountBody
from roundhouse.server.benchmarks_api import BenchmarkReport, Benchmarks
from roundhouse.server.completions_wire import CompletionBody, Completions
from roundhouse.server.context import Answers, Context
from roundhouse.server.dialect import Dialect
from roundhouse.server.drift_api import Drift, RelearnAsked
from roundhouse.server.embeddings_api import Embed, EmbedBody, Embeddings, EmbeddingsBody, OldEmbed, OldEmbedBody
from roundhouse.server.experiments_api import Course, Experiments, StartAsked, Steering, StopAsked
from roundhouse.server.feedback_api import Feedback, FeedbackBody
from roundhouse.server.health_api import Alive, Ready
from roundhouse.server.metrics_api import Metrics
from roundhouse.server.models_api import CountInput, CountTokens, Model, Models
from roundhouse.server.ollama_api import Delete, NameBody, Ps, Pull, Show, Tags, Version
from roundhouse.server.ollama_wire import ChatLines, GenerateLines, OllamaChatBody, OllamaGenerateBody
from roundhouse.server.openai_answers import Chat
from roundhouse.server.openai_wire import ChatBody
from roundhouse.server.prompts_api import Prompts, ReadAsked
from roundhouse.server.responses_stream import Responses
from roundhouse.server.responses_wire import ResponsesBody

__all__ = ["Path", "answerings", "paths"]

ANSWERED = "An answer of a model, whole or streamed."


@dataclass(frozen=True, slots=True)
class Path:
    """`path` may hold `{names}`. `role` None: open to whoever reaches the server. `metered`: a key's rates count it.

    `body`: what the JSON sent must be; None = there is none. `streams`: it can answer in events or lines.
    """

    method: str
    path: str
    app: ASGIApp
    doc: str
    role: Role | None = Role.CLIENT
    body: type | None = None
    metered: bool = False
    streams: bool = False

    @property
    def group(self) -> str:
        """The wire it belongs to."""
        if self.path.startswith("/v1/messages"):
            return "Anthropic"
        groups = {"/v1/": "OpenAI", "/api/": "Ollama", "/admin/": "Admin"}
        return next((group for prefix, group in groups.items() if self.path.startswith(prefix)), "Server")


def answerings(context: Answers, names: Callable[[], Collection[str]]) -> Mapping[str, Answering]:
    """All that a model answers, by path; each is a `POST`, metered. `names` may be put into `model`."""
    dialects: dict[str, Dialect] = {
        "/v1/chat/completions": Chat(),
        "/v1/completions": Completions(),
        "/v1/responses": Responses(),
        "/v1/messages": Anthropic(),
        "/api/chat": ChatLines(names),
        "/api/generate": GenerateLines(names),
    }
    return {path: Answering(context, dialect) for path, dialect in dialects.items()}


def paths(context: Context) -> list[Path]:
    answered = answerings(context, lambda: list(context.gateway.names()))
    return [
        *_openai(context, answered),
        *_anthropic(context, answered),
        *_ollama(context, answered),
        *_admin(context),
        *_server(context),
    ]


def _openai(context: Context, answered: Mapping[str, Answering]) -> Iterator[Path]:
    models = Models(context)
    for path, doc, body in (
        ("/v1/chat/completions", "The next turn of a conversation.", ChatBody),
        ("/v1/completions", "A text, extended as it stands.", CompletionBody),
        ("/v1/responses", "An answer as a list of items.", ResponsesBody),
    ):
        yield Path("POST", path, answered[path], doc, body=body, metered=True, streams=True)
    doc = "Tokens of an input."
    yield Path("POST", "/v1/responses/input_tokens", CountInput(context), doc, body=ResponsesBody, metered=True)
    doc = "A vector for each text."
    yield Path("POST", "/v1/embeddings", Embeddings(context), doc, body=EmbeddingsBody, metered=True)
    doc = "What came of an answer, for the experiments that it was in."
    yield Path("POST", "/v1/feedback", Feedback(context.gateway), doc, body=FeedbackBody, metered=True)
    yield Path("GET", "/v1/models", models, "Every name that may be put into `model`.")
    yield Path("GET", "/v1/models/{name}", Model(context, models), "One of these names.")


def _anthropic(context: Context, answered: Mapping[str, Answering]) -> Iterator[Path]:
    doc = "The next turn of a conversation, or of the assistant's message that ends it."
    yield Path("POST", "/v1/messages", answered["/v1/messages"], doc, body=AnthropicBody, metered=True, streams=True)
    counting = CountTokens(context)
    yield Path("POST", "/v1/messages/count_tokens", counting, "Tokens of a prompt.", body=CountBody, metered=True)


def _ollama(context: Context, answered: Mapping[str, Answering]) -> Iterator[Path]:
    def model(path: str, app: ASGIApp, doc: str, body: type, *, streams: bool = False) -> Path:
        return Path("POST", path, app, doc, body=body, metered=True, streams=streams)

    chat, generate = answered["/api/chat"], answered["/api/generate"]
    yield model("/api/chat", chat, "The next turn of a conversation.", OllamaChatBody, streams=True)
    yield model("/api/generate", generate, "The answer to a prompt.", OllamaGenerateBody, streams=True)
    yield model("/api/embed", Embed(context), "A vector for each text.", EmbedBody)
    yield model("/api/embeddings", OldEmbed(context), "A vector for one text.", OldEmbedBody)
    yield Path("POST", "/api/show", Show(context), "What is known of a model.", body=NameBody)
    yield Path("GET", "/api/tags", Tags(context), "Every name that may be put into `model`.")
    yield Path("GET", "/api/ps", Ps(context), "What is loaded.")
    yield Path("GET", "/api/version", Version(), "The version of Roundhouse.", role=None)
    doc = "Have an attached Ollama download a target's model."
    yield Path("POST", "/api/pull", Pull(context), doc, role=Role.ADMIN, body=NameBody, streams=True)
    doc = "Have an attached Ollama remove a target's model."
    yield Path("DELETE", "/api/delete", Delete(context), doc, role=Role.ADMIN, body=NameBody)


def _admin(context: Context) -> Iterator[Path]:
    gateway = context.gateway
    yield Path("GET", "/admin/state", State(gateway), "Every replica as it stands.", role=Role.ADMIN)
    yield Path("GET", "/admin/live", LiveFeed(context), "Figures of now, every second.", role=Role.ADMIN, streams=True)
    yield Path("GET", "/admin/decisions", Decisions(gateway), "The last requests.", role=Role.ADMIN)
    doc = "Why a request went where it went."
    yield Path("GET", "/admin/decisions/{request_id}", Decision(gateway), doc, role=Role.ADMIN)
    yield Path("GET", "/admin/switch/{id}", SwitchStatus(gateway), "How far a switch is.", role=Role.ADMIN)
    doc = "Every experiment, and what its data allow to say."
    yield Path("GET", "/admin/experiments", Experiments(gateway), doc, role=Role.ADMIN)
    doc = "An experiment's intervals over time."
    yield Path("GET", "/admin/experiments/{name}", Course(gateway), doc, role=Role.ADMIN)
    steering = Steering(gateway)
    start, doc = Command(StartAsked, steering.start), "Begin an experiment, or go on."
    yield Path("POST", "/admin/experiments/start", start, doc, role=Role.ADMIN, body=StartAsked)
    stop, doc = Command(StopAsked, steering.stop), "Stop an experiment, or promote one of its arms."
    yield Path("POST", "/admin/experiments/stop", stop, doc, role=Role.ADMIN, body=StopAsked)
    drift = Drift(gateway)
    yield Path("GET", "/admin/drift", drift, "Which targets have become slower or worse.", role=Role.ADMIN)
    relearn, doc = Command(RelearnAsked, drift.relearn), "Take what a target does from now on for usual."
    yield Path("POST", "/admin/drift/relearn", relearn, doc, role=Role.ADMIN, body=RelearnAsked)
    yield Path("GET", "/admin/benchmarks", Benchmarks(), "The last benchmarks.", role=Role.ADMIN)
    doc = "The report of a benchmark, as a page."
    yield Path("GET", "/admin/benchmarks/{id}", BenchmarkReport(), doc, role=Role.ADMIN)
    prompts = Prompts(gateway)
    yield Path("GET", "/admin/prompts", prompts, "Every prompt, its variables and wordings.", role=Role.ADMIN)
    reading, doc = Command(ReadAsked, prompts.read), "What a model would read of a prompt; nothing is generated."
    yield Path("POST", "/admin/prompts/read", reading, doc, role=Role.ADMIN, body=ReadAsked)
    orders = Orders(gateway)
    switch = Command(SwitchAsked, orders.switch)
    yield Path("POST", "/admin/switch", switch, "Exchange a route's target.", role=Role.ADMIN, body=SwitchAsked)
    load, unload = Command(TargetAsked, orders.load), Command(TargetAsked, orders.unload)
    yield Path("POST", "/admin/load", load, "Have a target's engines ready.", role=Role.ADMIN, body=TargetAsked)
    yield Path("POST", "/admin/unload", unload, "Stop a target's engines.", role=Role.ADMIN, body=TargetAsked)
    reload = Command(Nothing, orders.reload)
    yield Path("POST", "/admin/reload", reload, "Read the configuration again.", role=Role.ADMIN, body=Nothing)


def _server(context: Context) -> Iterator[Path]:
    yield Path("GET", "/healthz", Alive(), "The process answers.", role=None)
    yield Path("GET", "/readyz", Ready(context), "A request would be taken now.", role=None)
    yield Path("GET", "/metrics", Metrics(context.gateway), "For Prometheus to scrape.")
