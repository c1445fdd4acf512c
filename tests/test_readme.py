"""What the README shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from roundhouse.config import load_text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_question_on_the_command_line_gets_the_answer_that_is_shown() -> None:
    block = next(block for block in _blocks("console") if "roundhouse ask" in block)
    command, shown = block.removeprefix("$ ").split("\n", 1)
    command = command.replace("roundhouse ask", f"{sys.executable} -m roundhouse ask")
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout == shown


def test_the_configuration_that_is_shown_loads() -> None:
    (block,) = _blocks("yaml")
    assert load_text(block).routes == {"default": ("ollama", "llamacpp")}


def test_the_tree_names_the_folders_that_are_there() -> None:
    found = re.search(r"```\nroundhouse/\n(.*?)```", README, re.S)
    assert found is not None
    shown = set(re.findall(r"[├└]── (\w+)/", found[1]))
    there = {path.name for path in (ROOT / "roundhouse").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert shown == there


@pytest.mark.parametrize("target", re.findall(r"\]\(([\w./]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_python_that_is_shown_is_python() -> None:
    for block in _blocks("python"):
        compile(block, "README.md", "exec")
