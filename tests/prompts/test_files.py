"""Prompts as files: what is wrong is told with file, line and the near name; labels move, versions stay."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import TemplateError
from roundhouse.prompts.files import read_folder, read_texts
from roundhouse.prompts.shelf import move_label, open_shelf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nname: x\n", "line 1: the front matter is never closed"),
        ("---\nvariable: {}\n---\nx", 'line 2: .*unknown key "variable"; did you mean "variables"'),
        ("---\nvariables:\n  a: {typ: text}\n---\n{a}", 'line 3: .*unknown key "typ"; did you mean "type"'),
        ("---\nvariables:\n  a: {type: txt}\n---\n{a}", "line 3: .*Invalid enum value 'txt'"),
        ("---\nvariables: {a: txt}\n---\n{a}", 'line 2: variable "a": "txt" is no type; did you mean "text"'),
        (
            "---\nvariables: {a: {type: integer, default: x}}\n---\n{a}",
            "line 2: its default: .* must be a whole number",
        ),
        ("---\nvariables:\n  a: {enum: [b], default: c}\n---\n{a}", "line 3: its default: .* must be one of b"),
        ("---\nvariables: {qestion: text}\n---\n{question}", '"qestion" that is declared; did you mean "question"'),
        ("---\ndescription: a\ndescription: b\n---\nx", 'line 3: the key "description" stands here twice'),
        ("<!-- system -->\ns\n\n<!-- uesr -->\nx", 'line 4: "uesr" is no role; did you mean "user"'),
        ("---\nsampling: {temperature: 9}\n---\nx", "line 2: sampling.temperature: Expected `float` <= 2"),
        ("---\na: &x 1\nb: *x\n---\nx", "line 3: aliases are not allowed"),
        ("---\na: [\n---\nx", "line 3"),
        ("---\na: !!python/object:os.system x\n---\nx", "could not determine a constructor"),
        ("---\n- a\n---\nx", "Expected `object`, got `array`"),
        ("---\nname: ../x\n---\nx", "is no name for a prompt"),
        ("---\ndescription: d\n---\n\n", "there is no text below"),
        ("---\ndescription: d\n---\n\nok\n{a.b}", "line 6: .*is no placeholder"),
        ("text\n<!-- user -->\nx", "text before the first turn"),
        ("<!-- user -->\nx\n<!-- assistant -->\ny", "the last turn must be the user's"),
        ("---\nexamples: [{a: x}]\n---\n{a}", 'needs an "answer"'),
        ("---\nexamples: [{b: x, answer: y}]\n---\n{a}", 'has no variable "b"; it has a'),
    ],
)
def test_a_fault_names_the_file_and_the_line(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        read_texts({"dir/p.md": text}, {})
    assert "p" in str(caught.value)


@given(st.text("-:{}[]&*!<> \nabmodel_tuser", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        prompt = read_texts({"p.md": text}, {})
    except TemplateError:
        return
    assert all(one.variants for one in prompt.values())


@given(st.text("-:{}[]&*!<> \nabmodel_tuser", max_size=60))
def test_any_front_matter_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(TemplateError):
        assert list(read_texts({"p.md": f"---\n{text}\n---\nbody"}, {}))


def test_one_file_per_wording_the_name_says_whose(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\nvariables: {x: integer}\n---\n\nline {x}\n\n")
    (tmp_path / "a.qwen2.5.md").write_text("qwen {x} {> p}")
    (tmp_path / "other.md").write_text("---\nname: a\nmodel_type: gemma2\n---\nother")
    (tmp_path / "partials").mkdir()
    (tmp_path / "partials" / "p.md").write_text("part\n")
    prompt = read_folder(tmp_path)["a"]
    assert set(prompt.variants) == {"default", "qwen2.5", "gemma2"}
    assert prompt.prepare({"x": 1}).wording("default").text == "line 1"
    assert prompt.prepare({"x": 1}).wording("qwen2.5").text == "qwen 1 part"
    (tmp_path / "b.md").write_text("---\nname: a\n---\nx")
    with pytest.raises(TemplateError, match="has that wording already"):
        read_folder(tmp_path)


def test_what_is_no_text_or_too_large_or_absent_is_said(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="there is no folder of prompts at"):
        read_folder(tmp_path / "gone")
    (tmp_path / "a.md").write_bytes(b"ok\n\xff")
    with pytest.raises(TemplateError, match="line 2: it is not UTF-8"):
        read_folder(tmp_path)
    (tmp_path / "a.md").write_bytes(b"x" * (2 << 20))
    with pytest.raises(TemplateError, match="is larger than"):
        read_folder(tmp_path)


def test_pipes_loops_and_links_to_nowhere_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "partials").mkdir()
    os.mkfifo(tmp_path / "partials" / "p.md")
    with pytest.raises(TemplateError, match=r"p\.md is no file"):
        read_folder(tmp_path)
    (tmp_path / "partials" / "p.md").unlink()
    (tmp_path / "partials" / "loop.md").symlink_to("loop.md")
    with pytest.raises(TemplateError, match=r"loop\.md is no file, or a link that leads to none"):
        read_folder(tmp_path)
    (tmp_path / "partials" / "loop.md").unlink()
    (tmp_path / "labels.yaml").write_bytes(b"a: {x: y}\n" * 200_000)
    with pytest.raises(TemplateError, match="larger than 1024 KiB"):
        open_shelf(tmp_path)


def test_line_ends_marks_of_order_and_cases_of_roles_are_as_editors_write_them() -> None:
    text = (
        "---\nvariables: {n: {type: integer, enum: [1, 2], default: 2}}\n---\n<!-- System -->\nS {n}\n<!-- note -->\n"
    )
    text += "<!-- USER -->\nx"
    (prompt,) = read_texts({"p.md": text}, {}).values()
    told = prompt.prepare({}).wording("llama3")
    assert [(one.role, one.content) for one in told.messages] == [("system", "S 2\n<!-- note -->"), ("user", "x")]
    with pytest.raises(TemplateError, match="must be one of 1, 2"):
        prompt.prepare({"n": 3})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_is_the_same_whatever_its_line_ends(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf" + f"---{end}description: d{end}---{end}one{end}two{end}".encode())
    (prompt,) = read_folder(tmp_path).values()
    assert (prompt.description, prompt.prepare({}).wording("mistral").text) == ("d", "one\ntwo")


def test_a_label_moves_and_goes_back_and_an_old_version_stays_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("one {x} {> p}")
    (tmp_path / "partials").mkdir()
    (tmp_path / "partials" / "p.md").write_text("part")
    before, first = move_label(tmp_path, "a", "production")
    assert before == ""
    file.write_text("two {x}")
    (tmp_path / "partials" / "p.md").write_text("changed")
    assert open_shelf(tmp_path).find("a@production").prepare({"x": 1}).wording("").text == "one 1 part"
    assert open_shelf(tmp_path).find("a").prepare({"x": 1}).wording("").text == "two 1"
    assert move_label(tmp_path, "a", "production")[0] == first
    assert open_shelf(tmp_path).find("a@production").prepare({"x": 1}).wording("").text == "two 1"
    assert move_label(tmp_path, "a", "production", first[:6])[1] == first
    assert open_shelf(tmp_path).find(f"a@{first}").version == first
    with pytest.raises(TemplateError, match='has no label or version "staging"; it has production'):
        open_shelf(tmp_path).find("a@staging")
    with pytest.raises(TemplateError, match="is no label"):
        move_label(tmp_path, "a", "../x")


def test_a_version_that_was_edited_and_labels_that_are_none_are_found_out(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one")
    _, version = move_label(tmp_path, "a", "production")
    kept = tmp_path / "versions" / f"a@{version}" / "a.md"
    kept.write_text("edited")
    with pytest.raises(TemplateError, match="was changed: it holds version"):
        open_shelf(tmp_path)
    kept.write_text("one")
    for text in ("[", "a: x", "- a", "a: {production: 5}"):
        (tmp_path / "labels.yaml").write_text(text)
        with pytest.raises(TemplateError, match=r"labels\.yaml"):
            open_shelf(tmp_path)
    (tmp_path / "labels.yaml").write_text("a: {production: abcdef}")
    with pytest.raises(TemplateError, match="which is not kept"):
        open_shelf(tmp_path)


def test_labels_that_several_processes_move_at_once_are_all_there(tmp_path: Path) -> None:
    (tmp_path / "greeting.md").write_text("---\nname: greeting\n---\nHello.\n")
    code = "import sys; from pathlib import Path; from roundhouse.prompts.shelf import move_label\n"
    code += "[move_label(Path(sys.argv[1]), 'greeting', f'{sys.argv[2]}-{n}') for n in range(20)]"
    moving = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b", "c")]
    assert [one.wait(60) for one in moving] == [0, 0, 0]
    assert len(open_shelf(tmp_path).labels) == 60
