"""Third parties add a provider by entry point; what is unknown, missing and broken are three different errors."""

from pathlib import Path

import pytest

import roundhouse
from roundhouse.core import errors
from roundhouse.providers.base import Endpoint
from roundhouse.providers.registry import create, known

SHOUT = """
from roundhouse import LLMProvider

class Shout(LLMProvider):
    def __init__(self, endpoint):
        self.endpoint = endpoint

    def generate_answer(self, prompt: str) -> str:
        return prompt.upper()
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with two entry points, of which one cannot be imported."""
    (tmp_path / "shout_package.py").write_text(SHOUT)
    info = tmp_path / "shout-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[roundhouse.providers]\nshout = shout_package:Shout\nbroken = no_such_package:Nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("third_party")
def test_a_third_partys_provider_works_by_its_name_everywhere() -> None:
    assert known() == ("huggingface", "llamacpp", "ollama", "openai", "vllm", "broken", "shout")
    assert create("shout", Endpoint("t", "http://x")).generate_answer("hi") == "HI"
    made = roundhouse.LLMProviderFactory.create_provider("shout", "m", {"endpoint": "http://x"})
    assert made.generate_answer("hi") == "HI"
    made.close()
    manager = roundhouse.LLMManager({"llm": {"providers": [{"type": "shout", "model": "m", "endpoint": "http://x"}]}})
    assert manager.generate_answer("hi") == "HI"
    manager.close()


@pytest.mark.usefixtures("third_party")
def test_a_broken_provider_says_what_could_not_be_imported() -> None:
    with pytest.raises(ImportError, match=r'provider "broken" \(no_such_package:Nothing\) cannot be imported'):
        create("broken", Endpoint("t", "http://x"))


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known are huggingface, llamacpp, ollama, openai, vllm"):
        create("nope", Endpoint("t", "http://x"))
    with pytest.raises(errors.ConfigError, match="'shout' is no provider type"):
        roundhouse.LLMManager({"llm": {"providers": [{"type": "shout", "model": "m"}]}})
