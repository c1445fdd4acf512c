"""Whether a collector is told of requests: what is missing for it is said."""

import importlib.util
import subprocess
import sys

import pytest

from roundhouse.config import load_mapping
from roundhouse.core.errors import ConfigError
from roundhouse.gateway import Gateway
from roundhouse.gateway.exporting import is_wanted

TARGET = {"llm": {"providers": [{"type": "ollama", "model": "m"}]}}
NAMED = load_mapping({**TARGET, "telemetry": {"otlp": {}}})
PLAIN = load_mapping(TARGET)
VARIABLE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("absent")
def test_without_the_extra_a_configured_collector_is_an_error_that_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r'telemetry.otlp: .*pip install "roundhouse\[otel\]"'):
        Gateway(NAMED, exports=True)


@pytest.mark.usefixtures("absent")
def test_without_the_extra_variables_that_may_be_for_others_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not is_wanted(PLAIN, VARIABLE)
    assert 'pip install "roundhouse[otel]"' in caplog.text


def test_a_section_or_a_variable_names_a_collector_and_nothing_else_does() -> None:
    assert is_wanted(NAMED, {})
    assert is_wanted(PLAIN, VARIABLE)
    assert not is_wanted(PLAIN, {})
    assert not is_wanted(NAMED, {"OTEL_SDK_DISABLED": "TRUE"})


def test_an_endpoint_that_is_no_url_is_an_error() -> None:
    with pytest.raises(ConfigError, match="collector:4318"):
        is_wanted(load_mapping({**TARGET, "telemetry": {"otlp": {"endpoint": "collector:4318"}}}), {})


def test_a_house_without_a_collector_loads_nothing_of_opentelemetry() -> None:
    said = "import sys, roundhouse.gateway.gateway; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
