"""The error messages are part of the product: each names place, key, what was expected and what was found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.config import load_text
from roundhouse.core.errors import ConfigError

HEAD = "llm:\n  providers:\n"
MESSAGES = [
    (
        HEAD + "    - {type: llamacpp, model: m, n_ctxt: 5}\n",
        'f.yaml:3:42: unknown key "n_ctxt" in the llamacpp provider; did you mean n_ctx?',
    ),
    (
        HEAD + "    - {type: llamacpp, model: m, temperature: hot}\n",
        "f.yaml:3:47: llm.providers[0].temperature: expected a number, found 'hot'",
    ),
    (
        HEAD + "    - {type: llamacpp, model: m, n_ctx: true}\n",
        "f.yaml:3:41: llm.providers[0].n_ctx: expected a whole number, found true",
    ),
    (
        HEAD + "    - {type: llamacpp, model: m, temperature: 3}\n",
        "f.yaml:3:47: llm.providers[0].temperature: expected a number from 0 to 2, found 3",
    ),
    (
        HEAD + "    - {type: lamacpp, model: m}\n",
        "f.yaml:3:14: llm.providers[0].type: 'lamacpp' is no provider type; did you mean llamacpp?",
    ),
    (
        HEAD + "    - {type: llamacpp}\n",
        'f.yaml:3:7: llm.providers[0]: the key "model" is missing',
    ),
    (
        HEAD + "    - {type: ollama, model: m}\n  fallback_order: [olama]\n",
        'f.yaml:4:20: llm.fallback_order[0]: there is no target "olama"; did you mean ollama?',
    ),
    (
        HEAD + "    - {type: ollama, model: m, name: a}\n    - {type: openai, name: a}\n",
        'f.yaml:4:28: llm.providers: the name "a" stands twice; names must differ',
    ),
    (
        HEAD + "    - {type: ollama, model: m}\n    - {type: openai}\nroutes: {ollama: openai}\n",
        'f.yaml:5:18: routes.ollama: "ollama" is the name of a target; give the route another',
    ),
    (
        HEAD + "    - {type: openai, api_key: '${NOPE}'}\n",
        "f.yaml:3:31: the environment variable NOPE is not set; set it, or write ${NOPE:-default}",
    ),
    ("llm:\n  a: 1\n  a: 2\n", 'f.yaml:3:3: "a" stands twice; the first is in line 2'),
    (
        "llm: [1\n",
        "f.yaml:2:1: YAML syntax: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
    ),
    ("llm:\n\tx: 1\n", "f.yaml:2:1: YAML syntax: a tab is used for indentation; use spaces"),
    ("", "f.yaml: it is empty; it should begin with llm:"),
    ("- a\n", "f.yaml:1:1: expected a mapping that begins with llm:, found a list"),
    ("server: {port: 1}\n", 'f.yaml:1:1: the file: the key "llm" is missing'),
    ("llm: &x {providers: []}\ny: *x\n", "f.yaml:1:6: YAML aliases (*name) are not allowed here; write the value out"),
    ("llm: {providers: []}\n", "f.yaml:1:18: llm.providers: expected a list of at least 1, found a list"),
    (
        HEAD + "    - {type: ollama, model: m}\nlimits: {total: soon}\n",
        "f.yaml:4:17: limits.total: expected seconds, or a time such as 30s or 5m, found 'soon'",
    ),
]


@pytest.mark.parametrize(("text", "message"), MESSAGES, ids=[message[:60] for _, message in MESSAGES])
def test_message(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f.yaml")
    assert str(caught.value) == message


def test_a_value_from_the_environment_is_never_shown() -> None:
    text = HEAD + "    - {type: openai, endpoint: 'http://x', temperature: '${SECRET}'}\n"
    with pytest.raises(ConfigError) as caught:
        load_text(text, environ={"SECRET": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "found a value from the environment" in str(caught.value)


def test_no_object_is_built_from_a_tag() -> None:
    with pytest.raises(ConfigError):
        load_text(HEAD + "    - {type: openai, endpoint: !!python/object/apply:os.getcwd []}\n")


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_with_a_config_error(text: str) -> None:
    try:
        load_text(text)
    except ConfigError as error:
        assert error.message  # noqa: PT017


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["llm", "providers", "type", "model", "name", "routes", "limits"]), x, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_structure_is_read_or_refused_with_a_config_error(value: object) -> None:
    import json

    try:
        load_text(json.dumps(value))
    except ConfigError as error:
        assert error.message  # noqa: PT017


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:11434", "'127.0.0.1:11434' has no http:// or https://; did you mean http://127.0.0.1:11434?"),
        ("localhost", "did you mean http://localhost?"),
        ("ftp://host", "expected a URL that begins with http:// or https://, found 'ftp://host'"),
        ("http://", "expected a URL"),
        ("http://host:99999", "expected a URL"),
        ("http://[::1", "expected a URL"),
        ("12", "did you mean http://12?"),
    ],
)
def test_an_address_without_its_scheme_is_refused_before_it_is_tried(address: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{address}'}}]}}")
    assert said in str(caught.value)


def test_a_password_in_an_address_is_not_repeated() -> None:
    for address in ("user:secret-password@host", "ftp://user:secret-password@host"):
        with pytest.raises(ConfigError) as caught:
            load_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{address}'}}]}}")
        assert "secret-password" not in str(caught.value)
