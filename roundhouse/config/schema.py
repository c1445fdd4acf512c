"""Which keys there are and what each must be: the one place that the checks, the JSON Schema and the docs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roundhouse.config.rules import (
    Anything,
    DatabaseUrl,
    Duration,
    Either,
    Faults,
    ListOf,
    MapOf,
    Number,
    Pattern,
    Rule,
    Schema,
    Section,
    Switch,
    Text,
    Url,
    nearest,
)
from roundhouse.config.source import Node

__all__ = ["OPTIONS", "REDACTED", "SAMPLING", "TYPES", "file_rule"]

FAMILY_NAMES = ("llama3", "phi3", "gemma2", "qwen2.5", "mistral")
TYPES = ("ollama", "llamacpp", "huggingface", "vllm", "openai")
# As roundhouse.telemetry.redaction has them.
REDACTED = ("secret", "email", "iban", "card", "ip", "phone")
_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")

SAMPLING: Mapping[str, Rule] = {
    "max_tokens": Number("Longest answer, in tokens.", 1, 10_000_000, whole=True),
    "temperature": Number("0 = always the likeliest token.", 0, 2),
    "top_p": Number("Nucleus sampling: the share of probability kept.", 0, 1),
    "top_k": Number("How many of the likeliest tokens are kept; 0 = all.", 0, 1_000_000, whole=True),
    "min_p": Number("Least probability kept, relative to the likeliest token.", 0, 1),
    "repeat_penalty": Number("Above 1 makes repetition less likely.", 0, 10),
    "presence_penalty": Number("", -2, 2),
    "frequency_penalty": Number("", -2, 2),
    "seed": Number("Makes sampling repeatable where the backend can.", 0, 2**63 - 1, whole=True),
    "stop": ListOf(Text(), "Texts that end an answer.", single=True),
}

_COMMON: Mapping[str, Rule] = {
    "type": Text("Which kind of backend."),
    "name": Text("The target's own name; its type if absent."),
    "model": Text("The backend's name of the model, a file, or `demo` for the built-in model."),
    "family": Text("Whose habits the model has; unset = by its own files.", FAMILY_NAMES),
    "endpoint": Url("URL of a backend that someone else runs."),
    "slots": Number(
        "Requests that a backend run by someone else is sent at once; the others wait here.", 1, 100_000, True
    ),
    "timeout": Duration("Limit on the first token and between tokens.", low=0.001, high=86_400),
    **SAMPLING,
    "api_key": Text("Key of the backend; write ${VAR} to keep it out of the file."),
    "headers": MapOf(Text(), "Headers sent with every request."),
    "executable": Text("Program to start instead of the built-in worker."),
    "env": MapOf(Text(empty=True), "Environment of the started program."),
    "replicas": Section(
        {"min": Number("", 0, 1024, whole=True), "max": Number("", 1, 1024, whole=True)}, "How many engines."
    ),
    "ttl": Duration("Unload after this long without a request."),
    "pin": Switch("Never unload."),
    "preload": Switch("Load at the start, not at the first request."),
    "check": Section(
        {"prompt": Text("The question."), "expect": Text("What its answer must contain, in any case.")},
        "What it is asked before it takes over in a switch.",
    ),
    "extra": MapOf(Anything(), "Settings of the backend that are not listed here, passed on as they are."),
}

OPTIONS: Mapping[str, Mapping[str, Rule]] = {
    "llamacpp": {
        "n_ctx": Number("Window of one request, in tokens; 0 = what the model was trained for.", 0, 10_000_000, True),
        "n_parallel": Number("Requests served at once.", 1, 1024, True),
        "n_threads": Number("Threads for decoding; default: the physical cores.", 1, 1024, True),
        "n_threads_batch": Number("Threads for prompts.", 1, 1024, True),
        "n_batch": Number("Tokens per logical batch.", 1, 1_000_000, True),
        "n_ubatch": Number("Tokens per physical batch.", 1, 1_000_000, True),
        "n_gpu_layers": Number("Layers on the GPU; -1 = as many as fit.", -2, 10_000, True),
        "main_gpu": Number("", 0, 64, True),
        "cache_type_k": Text("Type of the key cache.", _KV_TYPES),
        "cache_type_v": Text("Type of the value cache.", _KV_TYPES),
        "flash_attn": Switch("Flash attention; unset = where it helps."),
        "kv_unified": Switch("All slots share one cache."),
        "cache_ram_mib": Number("Host memory for finished prompts, in MiB.", 0, 10_000_000, True),
        "use_mmap": Switch("Map the file instead of reading it."),
        "use_mlock": Switch("Keep the weights from being swapped out."),
        "lora": ListOf(Text(), "LoRA adapters, as GGUF files.", single=True),
        "draft_model": Text("GGUF file of a draft model for speculative decoding."),
        "chat_template": Text("Jinja chat template, in place of the model's own."),
        "rope_freq_base": Number("", 0),
        "rope_freq_scale": Number("", 0),
        "embeddings": Switch("Serve embeddings instead of chat."),
        "rerank": Switch("Serve rankings of documents instead of chat, with a model made for it."),
    },
    "ollama": {
        "num_ctx": Number("Window, in tokens; the same in all requests.", 1, 10_000_000, True),
        "num_gpu": Number("Layers on the GPU.", -1, 10_000, True),
        "num_thread": Number("", 1, 1024, True),
        "num_batch": Number("", 1, 1_000_000, True),
        "keep_alive": Anything("How long Ollama keeps the model loaded: seconds or such as 5m; negative = for ever."),
        "think": Anything("true, false, low, medium or high."),
    },
    "openai": {
        "organization": Text("Sent as the OpenAI-Organization header."),
        "project": Text("Sent as the OpenAI-Project header."),
    },
    "huggingface": {
        "n_ctx": Number("Window of one request, in tokens; 0 = what the model was trained for.", 0, 10_000_000, True),
        "n_parallel": Number("Requests computed in one batch.", 1, 1024, True),
        "n_threads": Number("Threads; default: the physical cores.", 1, 1024, True),
        "cache_tokens": Number("Tokens in the cache that all requests share.", 1, 100_000_000, True),
        "device": Text("cuda, mps or cpu; unset = the best there is."),
        "dtype": Text("Precision; unset = what is fast on the device.", ("float32", "float16", "bfloat16")),
        "attn_implementation": Text("Such as sdpa or flash_attention_2."),
        "cuda_graphs": Switch("Replay steps as CUDA graphs: faster, without logprobs."),
        "revision": Text("Branch, tag or commit on the hub."),
        "load_in_4bit": Switch("Quantise at load, by bitsandbytes."),
        "load_in_8bit": Switch("Quantise at load, by bitsandbytes."),
        "chat_template": Text("Jinja chat template, in place of the model's own."),
        "embeddings": Switch("Serve embeddings instead of chat."),
        "trust_remote_code": Switch("Run Python code that comes with the model; only for models you trust as code."),
    },
    "vllm": {
        "gpu_memory_utilization": Number("Share of the device it may take.", 0.01, 1),
        "max_model_len": Number("Window of one request, in tokens.", 1, 10_000_000, True),
        "max_num_seqs": Number("Requests computed in one batch.", 1, 100_000, True),
        "max_num_batched_tokens": Number("Tokens computed in one step.", 1, 10_000_000, True),
        "tensor_parallel_size": Number("GPUs that share the model.", 1, 1024, True),
        "dtype": Text("Precision of the weights."),
        "kv_cache_dtype": Text("Precision of the cache."),
        "quantization": Text("How the weights are quantised."),
        "enable_prefix_caching": Switch("Keep the cache of common beginnings."),
        "enforce_eager": Switch("No CUDA graphs: starts faster, answers slower."),
        "enable_sleep_mode": Switch("Allow the model to sleep, which gives its memory back."),
        "lora": ListOf(Text(), "LoRA adapters, as name=path.", single=True),
    },
}  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class _Target(Rule):
    """An entry of `llm.providers`: the common keys, and those of its type."""

    types: tuple[str, ...]
    doc: str = "A backend and a model."

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, dict):
            return self.refuse(node, path, "a mapping with type and model", faults)
        kind = node.value.get("type")
        if kind is None:
            faults.append(node.error(f'{path}: the key "type" is missing; one of {", ".join(self.types)}', path))
            return None
        if kind.value not in self.types:
            said = nearest(kind.value, self.types) if isinstance(kind.value, str) else ""
            faults.append(kind.error(f"{path}.type: {kind.shown} is no provider type{said}", f"{path}.type"))
            return None
        return self._section(kind.value).check(node, path, faults)

    def _section(self, kind: str) -> Section:
        required = () if kind == "openai" else ("model",)
        fields = {**_COMMON, **OPTIONS.get(kind, {})}
        return Section(fields, self.doc, ("type", *required), named=f"the {kind} provider")

    def schema(self) -> Schema:
        shapes = []
        for kind in self.types:
            shape = self._section(kind).schema()
            shape["properties"]["type"] = {"const": kind}
            shapes.append(shape)
        return {"oneOf": shapes}


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


def file_rule(types: Sequence[str]) -> Section:
    """The rule of a whole file, for the provider types that exist here."""
    limits: dict[str, Rule] = {
        "connect": Duration("Until a connection stands.", low=0.001),
        "load": Duration("Until a model is loaded.", low=0.001),
        "first_token": Duration("From loaded to the first token.", low=0.001),
        "between_tokens": Duration("From one token to the next.", low=0.001),
        "thinking": Duration("From one token to the next while a model reasons.", low=0.001),
        "total": Duration("A whole request.", low=0.001),
        "hedge": Duration("Ask a second replica when a first token is this late; 0 = never.", low=0),
        "queue": Number("Requests that may wait for a slot.", 0, 1_000_000, whole=True),
        "attempts": Number("Attempts of one request; refused connections and loads under way are free.", 1, 100, True),
    }
    breaker: dict[str, Rule] = {
        "failures": Number("In a row, that open it.", 1, 10_000, whole=True),
        "refused": Number("Refused connections in a row that open it.", 1, 10_000, whole=True),
        "share": Number("Of the results within the window, that opens it if it failed.", 0.01, 1),
        "least": Number("Results before that share counts.", 1, 10_000, whole=True),
        "window": Duration("How long a result counts.", low=0.001),
        "open": Duration("How long it stays open at first; doubles with each failed probe.", low=0.001),
        "longest": Duration("The longest it stays open.", low=0.001),
        "probes": Number("Successes that close it.", 1, 100, whole=True),
        "slow_start": Duration("How long the load takes to rise again.", low=0.001),
    }
    server: dict[str, Rule] = {
        "host": Text("Address to listen on."),
        "port": Number("0 = any free one.", 0, 65535, whole=True),
        "hosts": ListOf(Text(), "Host headers answered besides the loopback names.", single=True),
        "origins": ListOf(Url(), "Sites whose pages may ask, such as https://app.example.com.", single=True),
        "body_limit_mib": Number("Largest request.", 1, 4096, whole=True),
        "head_limit_kib": Number("Largest head of a request.", 1, 4096, whole=True),
        "head_timeout": Duration("Until the head of a request has arrived.", low=0.01),
        "request_timeout": Duration("Until a request has arrived whole.", low=0.01),
        "stalled_timeout": Duration("How long a client may take nothing of its answer.", low=0.01),
        "connections": Number("Open at once.", 1, 1_000_000, whole=True),
        "drain": Duration("What running requests are given at the end.", low=0),
        "workers": Number(
            "Processes that answer; more than 1 relay beside the one that owns the engines.", 1, 64, True
        ),
        "tls_cert": Text("Certificate chain, as a PEM file; serves https."),
        "tls_key": Text("Private key, as a PEM file."),
        "watch": Switch("Read this file again when it changes; SIGHUP does it at any time."),
    }
    key: dict[str, Rule] = {
        "name": Text("Whose key it is."),
        "key": Text("The secret, at least 20 characters; write ${VAR} to keep it out of the file."),
        "role": Text("A client asks models; an admin also sees and steers.", ("client", "admin")),
        "routes": ListOf(Text(), "Names it may put into `model`; absent: all.", single=True),
        "requests_per_minute": Number("0 = no limit.", 0, 10**9, whole=True),
        "tokens_per_minute": Number("0 = no limit.", 0, 10**12, whole=True),
        "concurrent": Number("Requests at once; 0 = no limit.", 0, 10**6, whole=True),
    }
    auth: dict[str, Rule] = {
        "required": Switch("Refuse to start without a key."),
        "keys_file": Text("Where `roundhouse keys` keeps them; default: in the user's config folder."),
        "keys": ListOf(Section(key, "A key.", ("name", "key")), "Keys besides those of the file."),
    }
    llm: dict[str, Rule] = {
        "providers": ListOf(_Target(tuple(types)), "The targets, in order of preference.", least=1),
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
            "limits": Section(limits, "Time limits and the queue's bound."),
            "breaker": Section(breaker, "When a failing target is left alone."),
            "server": Section(server, "The HTTP server."),
            "auth": Section(auth, "Who may ask."),
            "resources": Section(
                {
                    "memory_fraction": Number("Share of the memory nobody else uses that models may take.", 0.01, 1),
                    "memory_mib": Number("At most so much of the processor's memory; 0 = no bound.", 0, 2**30, True),
                    "spare_workers": Number("Started workers that wait for a model, of each kind.", 0, 16, True),
                },
                "Memory.",
            ),
            "store": _store_rule(),
            "state": Section(
                {
                    "url": DatabaseUrl(
                        "A PostgreSQL that servers share: postgresql://user@host/database; default: files."
                    ),
                    "password": Text("Of the database's user; write ${VAR} to keep it out of the file."),
                },
                "Where experiments, history, keys, limits, labels and switched routes are kept.",
            ),
            "licences": Section(
                {
                    "allow": ListOf(Text(), "Ids that may be used; empty = all.", single=True),
                    "deny": ListOf(Text(), "Ids that may not.", single=True),
                    "require_commercial": Switch("Only licences that allow commercial use without conditions."),
                },
                "Which licences models may have; enforced when they are fetched and when they are loaded.",
            ),
            "telemetry": _telemetry_rule(),
        },
        "Roundhouse configuration",
        ("llm",),
    )
