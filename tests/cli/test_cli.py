"""The command line as users meet it: output, exit codes, one clear sentence for what is wrong, nothing left behind."""

import json
import os
import shlex
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import forge
from tests.conftest import VARO, WHO

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def run(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    ended = forge.run(*arguments, input=stdin.decode(errors="surrogateescape"), cwd=cwd)
    out, err = (text.encode(errors="surrogateescape") for text in (ended.stdout, ended.stderr))
    return subprocess.CompletedProcess(ended.args, ended.returncode, out, err)


def test_a_question_over_standard_input_as_json() -> None:
    ended = run("ask", WHO, "--context", "-", "--json", stdin=f"{VARO}\n".encode())
    told = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert "Ines Calder" in told["answer"]
    assert (told["target"], told["finish_reason"]) == ("demo", "stop")
    assert told["usage"]["total_tokens"] > 20
    assert told["timings"]["total_s"] > 0
    assert b"demo model" in ended.stderr


def test_the_answer_alone_goes_to_standard_output(tmp_path: Path) -> None:
    document = tmp_path / "d.txt"
    document.write_text(VARO)
    for flag in ("--stream", "--no-stream"):
        ended = run("ask", WHO, "-c", str(document), flag)
        assert ended.stdout.decode() == VARO + "\n"
        summary = ended.stderr.decode().splitlines()[-1]
        assert summary.startswith("[demo · demo · ")
        assert "first token" in summary
        assert "tokens/s" in summary


def test_several_documents_are_one_context(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The bridge of Tomar is made of iron.")
    (tmp_path / "b.txt").write_text(VARO)
    ended = run("ask", WHO, "-c", "a.txt", "-c", "b.txt", cwd=tmp_path)
    assert "Ines Calder" in ended.stdout.decode()


def test_a_cut_is_said(tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(["The weather was mild that day."] * 300 + [VARO]))
    ended = run("ask", WHO, "-c", str(long), "--json")
    assert "the document was cut: of 301 paragraphs" in json.loads(ended.stdout)["warnings"][0]
    assert b"the document was cut" in ended.stderr


def test_the_command_of_make_demo_gives_the_right_answer() -> None:
    recipe = next(line for line in MAKEFILE.read_text().splitlines() if line.startswith("\t$(BIN)/roundhouse ask "))
    ended = run(*shlex.split(recipe)[1:], cwd=MAKEFILE.parent)
    assert "Ines Calder" in ended.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["ask", " "], b"", 1, "the question is empty"),
        (["ask", "q", "-c", "/no/such/file"], b"", 1, "/no/such/file: there is no such file"),
        (["ask", "q", "-c", "/tmp"], b"", 1, "/tmp is a folder"),
        (["ask", "q", "-c", "-"], b"\x00\x01", 1, "standard input is a binary file"),
        (["ask", "q", "-c", "-"], b"%PDF-1.7 ...", 1, "is a PDF; convert it first"),
        (["ask", "q", "-c", "-"], b"caf\xe9", 1, "is not UTF-8 text (byte 3)"),
        (["ask", "q", "-c", "-"], b"  \n", 1, "standard input is empty"),
        (["ask", "q", "-m", "dmo"], b"", 1, 'there is no route or target "dmo"; did you mean demo?'),
        (["ask", "q", "-p", "rag", "-c", "-"], b"text", 1, 'there is no prompt "rag"'),
        (["ask", "q", "--config", "/no.yaml"], b"", 2, "/no.yaml: there is no such file"),
        (["ask"], b"", 2, "Missing argument"),
        (["ask", "q", "--temperature", "9"], b"", 2, "not in the range 0<=x<=2"),
        (["nope"], b"", 2, "nope"),
        (["config", "check", "/no.yaml"], b"", 2, "there is no such file"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments: list[str], stdin: bytes, code: int, said: str) -> None:
    ended = run(*arguments, stdin=stdin)
    told = ended.stderr.decode()
    assert ended.returncode == code, told
    assert said in " ".join(told.replace("│", " ").split())
    assert "Traceback" not in told
    assert ended.stdout == b""


def test_a_damaged_model_is_one_clear_sentence_and_debug_shows_the_traceback(tmp_path: Path, demo_gguf: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(demo_gguf.read_bytes()[:4_000_000])
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: llamacpp, model: cut.gguf}]}")
    ended = run("ask", "q", "--config", str(config))
    assert ended.returncode == 1
    assert "cut.gguf is cut: 6.3 MB of 10.3 MB are missing; download it again" in ended.stderr.decode()
    assert len(ended.stderr.splitlines()) == 1
    assert b"Traceback" in run("--debug", "ask", "q", "--config", str(config)).stderr


def test_no_memory_for_the_model_is_one_clear_sentence(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: llamacpp, model: demo, n_ctx: 10000000, n_parallel: 99}]}")
    ended = run("ask", "q", "--config", str(config))
    assert ended.returncode == 1
    assert "GiB may be used; most of it is the context" in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


def test_config_check_says_valid_or_everything_that_is_wrong(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("llm: {providers: [{type: ollama, model: m}]}")
    bad.write_text("llm: {providers: [{type: ollama, modl: m}]}\nsever: 1\n")
    ended = run("config", "check", str(good))
    assert (ended.returncode, ended.stdout.decode()) == (0, f"{good} is valid: default → ollama\n")
    ended = run("config", "check", str(bad))
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines()[-1] == "3 errors"
    told = json.loads(run("config", "check", str(bad), "--json").stdout)
    assert [error["line"] for error in told["errors"]] == [1, 1, 2]


def test_config_check_reads_the_templates_too(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('llm: {providers: [{type: ollama, model: m}], prompt_templates: {p: "{a.b}"}}')
    ended = run("config", "check", str(path))
    assert ended.returncode == 2
    assert 'template "p", line 1' in ended.stderr.decode()


def test_config_show_tells_where_a_value_comes_from_and_hides_secrets(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("llm: {providers: [{type: openai, endpoint: 'http://x', api_key: hunter2}]}\nserver: {port: 99}\n")
    shown = run("config", "show", "--config", str(path))
    assert f"server.port = 99  ({path}:2)" in shown.stdout.decode()
    assert "server.host = 127.0.0.1  (default)" in shown.stdout.decode()
    as_json = run("config", "show", "--config", str(path), "--json")
    assert json.loads(as_json.stdout)["targets"][0]["api_key"] == "***"
    assert b"hunter2" not in shown.stdout + as_json.stdout


def test_config_schema_is_json() -> None:
    assert json.loads(run("config", "schema").stdout)["required"] == ["llm"]


def test_doctor_tells_what_would_serve() -> None:
    ended = run("doctor", "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert told["targets"][0]["ok"]
    assert told["cores"] >= 1
    assert told["memory_free_bytes"] > 0
    assert b"ok " in run("doctor").stdout


def test_doctor_fails_when_nothing_would_serve(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("llm: {providers: [{type: openai, endpoint: 'http://127.0.0.1:1'}]}")
    ended = run("doctor", "--config", str(path))
    assert ended.returncode == 1
    assert "nothing listens there" in ended.stdout.decode()


def test_a_reader_who_leaves_early_causes_no_traceback() -> None:
    command = f"{sys.executable} -m roundhouse config schema | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert b"Traceback" not in ended.stderr


def test_a_command_whose_reader_left_ends_as_others_do(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-m", "roundhouse", "config", "show"], stdout=writer, stderr=-1, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_in_a_sentence() -> None:
    for arguments in (("config", "show"), ("--help",)):
        with Path("/dev/full").open("wb") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "roundhouse", *arguments], stdout=full, stderr=subprocess.PIPE, timeout=60
            )
        assert ended.returncode == 1
        assert ended.stderr.decode() == "roundhouse: No space left on device; `roundhouse --debug` shows where\n"


def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    for command, code in (("config show >&-", 0), ("ask x --context - <&-", 1)):
        ended = subprocess.run(
            f"{sys.executable} -m roundhouse {command}", shell=True, capture_output=True, timeout=60, cwd=tmp_path
        )
        assert ended.returncode == code
        assert b"Traceback" not in ended.stderr
    assert b"standard input is closed" in ended.stderr


def test_a_terminal_without_a_character_is_written_to(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: llamacpp, model: demo}]}")
    command = [sys.executable, "-m", "roundhouse", "config", "check", str(config)]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, timeout=60, env=environ)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"llamacpp" in ended.stdout


def test_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for arguments in (
        ("ask", "caf\udce9?"),
        ("prompts", "render", "chat", "--model", "demo", "--var", "message=\udce9"),
    ):
        ended = run(*arguments)
        assert ended.returncode == 1
        assert b"the request holds '\\udce9'" in ended.stderr
        assert b"Traceback" not in ended.stderr


def test_standard_input_is_read_once() -> None:
    ended = run("ask", WHO, "-c", "-", "-c", "-", stdin=VARO.encode())
    assert (ended.returncode, b"only once" in ended.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "x", "--temperature", "nan"),
        ("keys", "create", "ann", "--days", "inf"),
        ("keys", "create", "ann", "--days", "nan"),
        ("switch", "default", "demo", "--canary", "nan"),
        ("bench", "run", "--rate", "1", "--rate", "nan"),
    ],
)
def test_nan_is_no_number_of_any_command(arguments: tuple[str, ...]) -> None:
    """No bound holds it: a key with it as its days would never have ended."""
    ended = run(*arguments)
    assert ended.returncode == 2
    assert b"is no finite number" in ended.stderr


def test_all_faults_of_a_configuration_are_told_by_whichever_command_reads_it(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("llm:\n  providers: [{type: nope}]\nserver: {port: 99999999}\n")
    ended = run("doctor", "--config", str(config))
    assert ended.returncode == 2
    assert b":2:22: " in ended.stderr
    assert b":3:16: server.port" in ended.stderr


def test_a_password_in_the_url_of_a_server_is_not_repeated() -> None:
    ended = run("ps", "--url", "http://ann:secret-word@127.0.0.1:1")
    assert ended.returncode == 2
    assert b"secret-word" not in ended.stderr + ended.stdout


def test_a_key_has_a_name_that_fits_into_a_table() -> None:
    ended = run("keys", "create", "x" * 101)
    assert (ended.returncode, b"at most 100 characters" in ended.stderr) == (2, True)


def test_a_plan_tells_what_a_model_needs_and_how_far_it_stretches(tmp_path: Path) -> None:
    ended = run("plan", "demo", "--ctx", "512", "--parallel", "2", "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert (told["backend"], told["context"], told["slots"], told["fits"]) == ("llamacpp", 512, 2, True)
    needs = told["needs_bytes"]
    assert needs["total"] == sum(size for name, size in needs.items() if name not in ("total", "page_cache"))
    assert told["largest_context"] == 1024
    assert told["most_slots"] >= 2
    shown = run("plan", "demo").stdout.decode()
    assert "it fits" in shown
    assert "cache of keys and values" in shown


def test_a_plan_for_a_folder_of_safetensors(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "roundhouse" / "demo" / "safetensors"
    assert json.loads(run("plan", str(folder), "--json").stdout)["backend"] == "huggingface"


def test_a_plan_that_cannot_be_met_ends_with_1(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "llm: {providers: [{type: llamacpp, model: demo, name: big}]}\nresources: {memory_fraction: 0.01}\n"
    )
    ended = run("plan", "big", "--parallel", "1000", "--config", str(config), "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["fits"] is False


def test_a_plan_for_nothing_says_what_there_is(tmp_path: Path) -> None:
    ended = run("plan", "nope")
    assert ended.returncode == 1
    assert b'there is no "nope": it is no target (none are configured)' in ended.stderr
    (tmp_path / "empty").mkdir()
    assert b"it has no config.json" in run("plan", str(tmp_path / "empty")).stderr
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: llamacpp, model: gone.gguf, name: mine}]}")
    said = run("plan", "mine", "--config", str(config)).stderr.decode()
    assert 'target "mine": there is no model file' in said
    assert "is no target" not in said


def test_a_plan_for_a_target_is_by_its_own_backend(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "llm: {providers: [{type: huggingface, model: demo, name: torchy, n_parallel: 3},"
        " {type: ollama, model: 'mistral:7b', name: elsewhere}]}\n"
    )
    told = json.loads(run("plan", "torchy", "--config", str(config), "--json").stdout)
    assert (told["backend"], told["slots"]) == ("huggingface", 3)
    ended = run("plan", "elsewhere", "--config", str(config))
    assert ended.returncode == 1
    assert b'"elsewhere" is run by ollama, which plans its own memory' in ended.stderr


def test_faults_that_are_none_or_have_no_backend_are_said() -> None:
    ended = run("faults", "run", "--own", "--case", "nope")
    assert ended.returncode == 2
    assert b"there is no case nope" in ended.stderr
    ended = run("faults", "run", "--url", "http://127.0.0.1:9/v1", "--control", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert b"no faulty backend answers at http://127.0.0.1:9" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_what_stands_in_the_way_of_listening_is_said_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags, said in (
            (("--port", port), "choose another --port"),
            (("--host", "127.0.0.1.nowhere.invalid"), "there are no keys to keep strangers out"),
        ):
            ended = run("serve", *flags)
            assert ended.returncode == 2
            assert said in ended.stderr.decode()


def test_a_key_without_a_name_is_refused(tmp_path: Path) -> None:
    for name in ("", " ", "a\nb", "a\x1b[2J"):
        ended = run("keys", "create", name)
        assert (ended.returncode, b"name the key" in ended.stderr) == (2, True)
    assert b"there are no keys" in run("keys", "list").stderr


def test_the_version_is_that_of_the_package() -> None:
    """From nothing, as a user starts it."""
    ended = subprocess.run([sys.executable, "-m", "roundhouse", "--version"], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout.decode()) == (0, f"roundhouse {version('roundhouse')}\n")
