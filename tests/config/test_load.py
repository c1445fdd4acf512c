"""The user's file loads unchanged, and sources override each other in the documented order."""

from pathlib import Path

import pytest

from roundhouse.config import Invalid, Settings, find, load, load_text
from roundhouse.core.errors import ConfigError

USERS_FILE = """\
llm:
  providers:
    - type: "ollama"
      model: "mistral:7b"
      endpoint: "http://localhost:11434"
      timeout: 30
      max_tokens: 4000
      temperature: 0.1

    - type: "llamacpp"
      model: "models/mistral-7b-q4.gguf"
      n_ctx: 4096
      n_threads: 8
      temperature: 0.1

  fallback_order: ["ollama", "llamacpp"]

  prompt_templates:
    rag_query: |
      Context: {context}

      Question: {question}

      Answer based on the context above. If the context doesn't contain 
      relevant information, say "I don't have enough information to answer this question."

      Answer:
    summarization: |
      Summarize the following text in 2-3 sentences:

      {text}
"""  # noqa: W291


def test_the_users_file_loads_unchanged() -> None:
    settings = load_text(USERS_FILE)
    ollama, llamacpp = settings.targets
    assert (ollama.name, ollama.model, ollama.endpoint, ollama.timeout_s) == (
        "ollama",
        "mistral:7b",
        "http://localhost:11434",
        30.0,
    )
    assert (ollama.sampling.max_tokens, ollama.sampling.temperature) == (4000, 0.1)
    assert llamacpp.options == {"n_ctx": 4096, "n_threads": 8}
    assert settings.routes == {"default": ("ollama", "llamacpp")}
    assert settings.prompt_templates["rag_query"].startswith("Context: {context}\n\nQuestion: {question}\n\n")


def test_a_prompt_ends_where_its_block_ends_without_the_last_line_break() -> None:
    assert load_text(USERS_FILE).prompt_templates["rag_query"].endswith("\n\nAnswer:")


def test_the_users_rag_query_is_the_built_in_one_byte_for_byte() -> None:
    from roundhouse.prompts.builtin import builtin

    assert (
        load_text(USERS_FILE).prompt_templates["rag_query"]
        == builtin().find("rag_query").variants["default"].turns[0].template.source
    )


def _write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def _load(path: Path | None, **kwargs: object) -> Settings:
    return load(path, environ={}, cwd=Path("/"), **kwargs)  # type: ignore[arg-type]


ONE = "llm: {providers: [{type: llamacpp, model: demo}]}\n"


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, ONE + "server: {port: 1000, host: localhost}\n")
    environ = {"ROUNDHOUSE_SERVER__PORT": "2000", "ROUNDHOUSE_LIMITS__TOTAL": "5m"}
    assert load(path, environ={}, cwd=tmp_path).server.port == 1000
    assert load(path, environ=environ, cwd=tmp_path).server.port == 2000
    settings = load(path, environ=environ, cwd=tmp_path, flags={"server.port": 3000, "server.host": None})
    assert (settings.server.port, settings.server.host, settings.limits.total_s) == (3000, "localhost", 300.0)
    assert settings.origins["server.port"] == "flag --port"
    assert settings.origins["limits.total"] == "environment variable ROUNDHOUSE_LIMITS__TOTAL"


def test_a_file_is_looked_for_in_the_documented_places(tmp_path: Path) -> None:
    named, here = tmp_path / "named.yaml", tmp_path / "config" / "llm_config.yaml"
    assert find(None, {}, tmp_path) is None
    here.parent.mkdir()
    here.write_text(ONE)
    assert find(None, {}, tmp_path) == here
    assert find(None, {"ROUNDHOUSE_CONFIG": str(named)}, tmp_path) == named
    assert find(Path("x"), {"ROUNDHOUSE_CONFIG": str(named)}, tmp_path) == Path("x")


def test_without_a_file_there_are_defaults_and_no_targets(tmp_path: Path) -> None:
    settings = load(None, environ={}, cwd=tmp_path)
    assert (settings.source, settings.targets, settings.server.host) == ("defaults", (), "127.0.0.1")


def test_variables_are_read_from_the_environment_and_keep_their_type() -> None:
    text = (
        "llm:\n  providers:\n"
        "    - {type: openai, endpoint: 'http://${HOST}/v1', api_key: '${KEY}'}\n"
        "    - type: openai\n      timeout: ${T:-7}\n"
    )
    target, other = load_text(text, environ={"HOST": "h", "KEY": "s3cret"}).targets
    assert (target.endpoint, target.api_key, other.timeout_s) == ("http://h/v1", "s3cret", 7.0)
    assert "s3cret" not in repr(target)


def test_a_dollar_sign_can_be_written() -> None:
    text = "llm: {providers: [{type: openai, endpoint: 'http://x', headers: {a: '$${B}', b: $5}}]}"
    assert load_text(text).targets[0].headers == {"a": "${B}", "b": "$5"}


def test_a_second_target_of_a_type_gets_a_number_and_both_can_be_named() -> None:
    text = (
        "llm: {providers: "
        "[{type: llamacpp, model: a}, {type: llamacpp, model: b}, {type: ollama, model: c, name: big}], "
        "fallback_order: [llamacpp-2, ollama]}"
    )
    settings = load_text(text)
    assert [target.name for target in settings.targets] == ["llamacpp", "llamacpp-2", "big"]
    assert settings.routes["default"] == ("llamacpp-2", "big")


def test_routes_are_lists_of_targets_or_one() -> None:
    settings = load_text(ONE + "routes: {fast: llamacpp, both: [llamacpp]}")
    assert settings.routes == {"default": ("llamacpp",), "fast": ("llamacpp",), "both": ("llamacpp",)}


def test_settings_of_a_backend_that_are_not_known_go_under_extra() -> None:
    text = "llm: {providers: [{type: llamacpp, model: m, n_ctx: 8, extra: {yarn_orig_ctx: 3}}]}"
    assert load_text(text).targets[0].options == {"n_ctx": 8, "yarn_orig_ctx": 3}


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("500ms", 0.5), ("5m", 300), ("1.5h", 5400), ("2 s", 2)])
def test_times_have_units(text: str, seconds: float) -> None:
    assert load_text(ONE + f"limits: {{total: {text}}}").limits.total_s == seconds


def test_all_faults_of_a_file_are_told_at_once_in_its_order() -> None:
    text = "llm:\n  providers:\n    - {type: ollama, modl: x}\n    - {type: nope, model: y}\nsever: 1\n"
    with pytest.raises(Invalid) as caught:
        load_text(text, "f.yaml")
    assert [fault.line for fault in caught.value.faults] == [3, 3, 4, 5]
    assert str(caught.value) == str(caught.value.faults[0])


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        _load(tmp_path)
    with pytest.raises(ConfigError, match="there is no such file"):
        _load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"llm:\n  a: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2: it is not UTF-8"):
        _load(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        _load(tmp_path / "huge.yaml")
