"""Which keys there are and what each must be: the one place that the checks, the JSON Schema and the docs read."""

from __future__ import annotations

from collections.abc import Sequence

from roundhouse.config.rules import (
    DatabaseUrl,
    Duration,
    Either,
    ListOf,
    MapOf,
    Number,
    Pattern,
    Rule,
    Section,
    Switch,
    Text,
    Url,
)
from roundhouse.config.target import SAMPLING, TargetRule

__all__ = ["REDACTED", "file_rule"]

# As roundhouse.telemetry.redaction has them.
REDACTED = ("secret", "email", "iban", "card", "ip", "phone")

_ARM = Section(
    {
        "weight": Number("Its share of the units, relative to the other arms'.", 0, 1_000_000),
        "prompt": Text("The prompt its requests get; with @label or @version if wanted."),
        "route": Text("The route or target that serves them."),
        "settings": Section(SAMPLING, "How they are sampled."),
    },
    "What is different for this arm; nothing = as it was asked for.",
)
_EXPERIMENT = Section(
    {
        "prompt": Text("It concerns requests for this prompt."),
        "route": Text("It concerns requests for this route that name no prompt."),
        "arms": MapOf(_ARM, "The variants by name; the first is the control."),
        "metric": Text("What decides: a name of feedback, or error, first_token_s, total_s, output_tokens, refusal."),
        "goal": Text("Which way is better.", ("higher", "lower")),
        "unit": Text("Who stays in one arm: body (experiment_unit or user), header:NAME, key, or request."),
        "guardrails": MapOf(Number("", 0), "By metric, how much worse than the control an arm may be."),
        "alpha": Number("Chance of ever naming a winner where there is none.", 0.0001, 0.5),
        "least": Number("Units of each arm before a verdict.", 2, 10_000_000, whole=True),
        "planned": Number("Units at which the intervals are narrowest.", 10, 100_000_000, whole=True),
        "auto_promote": Switch("Give everybody the winner once every guardrail has shown to hold."),
        "allocation": Text(
            "How units are shared out: by weight, or more and more to what seems best.", ("fixed", "thompson")
        ),
        "batch": Number("Units between two changes of the shares, with thompson.", 50, 1_000_000, whole=True),
        "scorers": ListOf(Text(), "Scorers that judge every answer, each a metric: format, json, or your own."),
        "covariate": Text("What explains part of the outcomes.", ("characters",)),
    },
    "Variants that compete for traffic.",
    ("arms", "metric"),
)


def _store_rule() -> Section:
    entry: dict[str, Rule] = {
        "title": Text("Its name for people."),
        "licence": Text("Its licence's id, as on the hub."),
        "gguf": Text("Repository with its GGUF files."),
        "safetensors": Text("Repository with its safetensors files."),
        "url": Text("Address of its GGUF file, if it is on no hub."),
        "revision": Text("Branch, tag or commit that is followed."),
        "ollama": Text("Its tag at Ollama."),
        "context": Number("Tokens it was trained for.", 1, 100_000_000, whole=True),
        "gated": Switch("Its repository wants an account that has accepted its terms."),
    }
    return Section(
        {
            "path": Text("Folder of the store; default: in the user's data folder."),
            "connections": Number("Parts of a file that are fetched at once.", 1, 64, whole=True),
            "part_mib": Number("Size of a part.", 1, 1024, whole=True),
            "catalogue": MapOf(
                Section(entry, "A model.", named="a catalogue entry"), "Models beside the built-in ones."
            ),
        },
        "Models on disk.",
    )


def _telemetry_rule() -> Section:
    history: dict[str, Rule] = {
        "enabled": Switch("Whether a server keeps what each request took."),
        "path": Text("The file; default: in the user's state folder."),
        "retention": Duration("How long a request is kept.", low=60),
        "most_mib": Number("Size of the file beyond which the oldest requests go.", 1, 1 << 20, whole=True),
    }
    log: dict[str, Rule] = {
        "format": Text("`text` or `json`: a line of JSON for each.", ("text", "json")),
        "level": Text("What is written, and what is worse.", ("debug", "info", "warning", "error")),
        "requests": Switch("A line of numbers for each request that ended."),
        "content": Switch("A line of what was asked and answered, redacted."),
        "redact": ListOf(Text(choices=REDACTED), "Rules of what is taken out of texts; default: all."),
        "redact_also": MapOf(Pattern("A regular expression of Python."), "What else is, by the name written for it."),
    }
    otlp: dict[str, Rule] = {
        "endpoint": Text("Base URL of a collector, without /v1/traces; default: OTEL_EXPORTER_OTLP_ENDPOINT."),
        "headers": MapOf(Text(), "Headers sent with every export; write ${VAR} to keep a key out of the file."),
        "sampling": Number("Share of the traces that are kept, unless the caller has decided.", 0, 1),
        "interval": Duration("Between two exports of metrics.", low=0.1),
        "content": Switch("Spans have what was asked and answered, redacted as the log's."),
    }
    drift: dict[str, Rule] = {
        "enabled": Switch("Whether targets are watched for having become slower or worse."),
        "baseline": Number("Requests of a target that its usual is learned from.", 100, 100_000, whole=True),
        "slower": Number("Times the usual, below which no answer is called slow.", 1, 100),
        "false_alarm": Number("Requests between two false warnings, on average at least.", 1_000, 10**12, whole=True),
        "apart": Duration("Of requests of a target that end within this time, one is heard; 0: all are.", low=0),
        "quality": ListOf(Text(), "Metrics of feedback, from 0 to 1, of which less is worse.", single=True),
        "act": Text("What is done besides: ask others first, or undo the last switch.", ("warn", "avoid", "roll_back")),
        "avoid_for": Duration("How long others are asked first.", low=1),
        "roll_back_within": Duration("How long after its end a switch may be undone.", low=1),
        "webhook": Url("Told of every warning by a POST of JSON; write ${VAR} for a token in it."),
        "webhook_hosts": ListOf(Text(), "Hosts that a webhook may be at.", single=True),
    }
    return Section(
        {
            "drift": Section(drift, "Warnings of targets that become slower or worse."),
            "history": Section(history, "Numbers of each request, for `roundhouse stats`."),
            "log": Section(log, "Lines on standard error."),
            "otlp": Section(otlp, "A collector of OpenTelemetry, told of each request."),
        },
        "What is recorded.",
    )


_LIMITS = Section(
    {
        "connect": Duration("Until a connection stands.", low=0.001),
        "load": Duration("Until a model is loaded.", low=0.001),
        "first_token": Duration("From loaded to the first token.", low=0.001),
        "between_tokens": Duration("From one token to the next.", low=0.001),
        "thinking": Duration("From one token to the next while a model reasons.", low=0.001),
        "total": Duration("A whole request.", low=0.001),
        "hedge": Duration("Ask a second replica when a first token is this late; 0 = never.", low=0),
        "queue": Number("Requests that may wait for a slot.", 0, 1_000_000, whole=True),
        "attempts": Number("Attempts of one request; refused connections and loads under way are free.", 1, 100, True),
    },
    "Time limits and the queue's bound.",
)

_BREAKER = Section(
    {
        "failures": Number("In a row, that open it.", 1, 10_000, whole=True),
        "refused": Number("Refused connections in a row that open it.", 1, 10_000, whole=True),
        "share": Number("Of the results within the window, that opens it if it failed.", 0.01, 1),
        "least": Number("Results before that share counts.", 1, 10_000, whole=True),
        "window": Duration("How long a result counts.", low=0.001),
        "open": Duration("How long it stays open at first; doubles with each failed probe.", low=0.001),
        "longest": Duration("The longest it stays open.", low=0.001),
        "probes": Number("Successes that close it.", 1, 100, whole=True),
        "slow_start": Duration("How long the load takes to rise again.", low=0.001),
    },
    "When a failing target is left alone.",
)

_SERVER = Section(
    {
        "host": Text("Address to listen on."),
        "port": Number("0 = any free one.", 0, 65535, whole=True),
        "hosts": ListOf(Text(), "Host headers answered besides the loopback names.", single=True),
        "origins": ListOf(Url(), "Sites whose pages may ask, such as https://app.example.com.", single=True),
        "body_limit_mib": Number("Largest request.", 1, 4096, whole=True),
        "head_limit_kib": Number("Largest head of a request.", 1, 4096, whole=True),
        "head_timeout": Duration("Until the head of a request has arrived.", low=0.01),
        "request_timeout": Duration("Until a request has arrived whole.", low=0.01),
        "stalled_timeout": Duration("How long a client may take nothing of its answer.", low=0.01),
        "keep_alive_timeout": Duration("How long a connection may lie idle between two requests.", low=0.01),
        "connections": Number("Open at once.", 1, 1_000_000, whole=True),
        "drain": Duration("What running requests are given at the end.", low=0),
        "workers": Number(
            "Processes that answer; more than 1 relay beside the one that owns the engines.", 1, 64, True
        ),
        "tls_cert": Text("Certificate chain, as a PEM file; serves https."),
        "tls_key": Text("Private key, as a PEM file."),
        "watch": Switch("Read this file again when it changes; SIGHUP does it at any time."),
    },
    "The HTTP server.",
)

_KEY = Section(
    {
        "name": Text("Whose key it is."),
        "key": Text("The secret, at least 20 characters; write ${VAR} to keep it out of the file."),
        "role": Text("A client asks models; an admin also sees and steers.", ("client", "admin")),
        "routes": ListOf(Text(), "Names it may put into `model`; absent: all.", single=True),
        "requests_per_minute": Number("0 = no limit.", 0, 10**9, whole=True),
        "tokens_per_minute": Number("0 = no limit.", 0, 10**12, whole=True),
        "concurrent": Number("Requests at once; 0 = no limit.", 0, 10**6, whole=True),
    },
    "A key.",
    ("name", "key"),
)

_AUTH = Section(
    {
        "required": Switch("Refuse to start without a key."),
        "keys_file": Text("Where `roundhouse keys` keeps them; default: in the user's config folder."),
        "keys": ListOf(_KEY, "Keys besides those of the file."),
    },
    "Who may ask.",
)

_RESOURCES = Section(
    {
        "memory_fraction": Number("Share of the memory nobody else uses that models may take.", 0.01, 1),
        "memory_mib": Number("At most so much of the processor's memory; 0 = no bound.", 0, 2**30, True),
        "spare_workers": Number("Started workers that wait for a model, of each kind.", 0, 16, True),
    },
    "Memory.",
)

_STATE = Section(
    {
        "url": DatabaseUrl("A PostgreSQL that servers share: postgresql://user@host/database; default: files."),
        "password": Text("Of the database's user; write ${VAR} to keep it out of the file."),
    },
    "Where experiments, history, keys, limits, labels and switched routes are kept.",
)

_LICENCES = Section(
    {
        "allow": ListOf(Text(), "Ids that may be used; empty = all.", single=True),
        "deny": ListOf(Text(), "Ids that may not.", single=True),
        "require_commercial": Switch("Only licences that allow commercial use without conditions."),
    },
    "Which licences models may have; enforced when they are fetched and when they are loaded.",
)


def file_rule(types: Sequence[str]) -> Section:
    """The rule of a whole file, for the provider types that exist here."""
    llm: dict[str, Rule] = {
        "providers": ListOf(TargetRule(tuple(types)), "The targets, in order of preference.", least=1),
        "fallback_order": ListOf(Text(), "The order of trying, `a | b` being equals; default: as listed.", least=1),
        "prompts": Text("A folder of prompt files, beside this file."),
        "prompt_templates": MapOf(
            Either(Text(), MapOf(Text(), "By family of models, `default` for the others.")),
            "Prompts by name, with {placeholders}.",
        ),
    }
    return Section(
        {
            "llm": Section(llm, "Models and prompts.", ("providers",)),
            "routes": MapOf(
                ListOf(Text(), single=True, least=1),
                "Names for clients: ordered lists of targets, `a | b` being equals.",
            ),
            "experiments": MapOf(_EXPERIMENT, "Experiments by name; `roundhouse experiment start` begins one."),
            "limits": _LIMITS,
            "breaker": _BREAKER,
            "server": _SERVER,
            "auth": _AUTH,
            "resources": _RESOURCES,
            "store": _store_rule(),
            "state": _STATE,
            "licences": _LICENCES,
            "telemetry": _telemetry_rule(),
        },
        "Roundhouse configuration",
        ("llm",),
    )
