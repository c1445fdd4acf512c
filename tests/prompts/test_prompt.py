"""A prompt words itself for the model that answers; values stay data, roles stay the template's."""

import unicodedata
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers

from roundhouse.core.chat import ChatRequest, Message, Sampling
from roundhouse.core.errors import TemplateError
from roundhouse.prompts.builtin import REFUSAL, builtin
from roundhouse.prompts.catalog import Catalog, from_texts
from roundhouse.prompts.families import FAMILIES
from roundhouse.prompts.files import read_texts
from roundhouse.prompts.markers import neutralised, pattern_of, tokens_in
from roundhouse.prompts.prompt import Prompt
from roundhouse.prompts.template import Span, Template
from roundhouse.prompts.variables import Kind, Variable
from tests.conftest import DEMO

FAMILY_NAMES = [family.name for family in FAMILIES]
MARKERS = {
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "phi3": ["<|system|>", "<|end|>", "</s>", "<|assistant|>"],
    "gemma2": ["<start_of_turn>", "<end_of_turn>", "<bos>", "<unused12>", "<start_of_image>"],
    "qwen2.5": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>"],
    "mistral": ["[INST]", "[/INST]", "</s>", "<s>", "[TOOL_CALLS]", "<<SYS>>", "[SYSTEM_PROMPT]"],
}
# What fine-tunes add, on whatever model they began from: ChatML, Gemma 4, DeepSeek.
FINE_TUNES = ["<|im_start|>", "<|turn>", "<turn|>", "<｜User｜>"]
LOOK_ALIKES = [
    "＜|im_start|＞",
    "<|im_\u200bstart|>",
    "<\u200b|im_start|>",
    "﹤|im_ｅnd|﹥",
    "<|ﬆart|>",
    "<\x01|end|>",
    "＜﹤x",
]
BITS = ["<|", "|>", "im_start", "[", "{a}", "＜", "｜", "］"]
PIECES = st.one_of(
    st.sampled_from(sorted({*(one for some in MARKERS.values() for one in some), *FINE_TUNES, *LOOK_ALIKES, *BITS})),
    st.text(max_size=6),
)
VALUES = st.lists(PIECES, max_size=6).map("".join)


def _prompt(text: str, **types: str) -> Prompt:
    front = "---\nvariables:\n" + "".join(f"  {name}: {kind}\n" for name, kind in types.items()) + "---\n"
    return read_texts({"p.md": (front if types else "") + text}, {})["p"]


@pytest.mark.parametrize(("family", "marker"), [(name, one) for name, some in MARKERS.items() for one in some])
def test_a_special_token_of_the_family_in_a_value_is_broken_up_and_said(family: str, marker: str) -> None:
    wording = _prompt("Say {a}.").prepare({"a": f"x{marker}y"}).wording(family)
    assert marker not in wording.messages[0].content
    assert wording.messages[0].content == f"Say x{marker[0]} {marker[1:]}y."
    assert wording.exact[0][1].text == f"Say x{marker}y."
    assert wording.broken == ("a",)


@pytest.mark.parametrize("family", [*FAMILY_NAMES, "default"])
@pytest.mark.parametrize("marker", FINE_TUNES)
def test_tokens_that_fine_tunes_add_are_broken_up_for_every_family(family: str, marker: str) -> None:
    wording = _prompt("{a}").prepare({"a": marker}).wording(family)
    assert (wording.text, wording.broken) == (f"{marker[0]} {marker[1:]}", ("a",))


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("llama3", "<s>old price</s> [note]"),
        ("mistral", "SELECT [CUSTOMER_ID], [NAME] FROM [ORDERS] -- [TODO]"),
        ("qwen2.5", "a <b>bold</b> [claim]; if a<b and c>d: f |> g <| h"),
        ("default", "List<String>, [Straße](x), <Größe>, 灯塔（1871）｜＜b＞"),
    ],
)
def test_what_is_no_token_of_the_family_is_left_as_it_is(family: str, text: str) -> None:
    wording = _prompt("{a}").prepare({"a": text}).wording(family)
    assert (wording.text, wording.broken) == (text, ())


def test_tokens_of_the_models_own_chat_template_are_broken_up_too() -> None:
    own = tokens_in("[gMASK]<sop>{% if a[0] < b %}{{ '<turn_of_user>' + a['x'] + '</tool>' }}{% endif %}<|end|>")
    assert own == {"[gMASK]", "<sop>", "<turn_of_user>", "</tool>", "<|end|>"}
    prepared = _prompt("{a}").prepare({"a": "x<turn_of_user>[gMASK]</tool>"})
    assert prepared.wording("llama3").broken == ()
    assert prepared.wording("llama3", own=own).text == "x< turn_of_user>[ gMASK]< /tool>"
    worded = prepared.word(ChatRequest(()), "llama3", (), own)
    assert worded.request.messages[0].content == "x< turn_of_user>[ gMASK]< /tool>"


@pytest.mark.parametrize("value", [one for one in LOOK_ALIKES if one != "＜﹤x"])
def test_a_tokenizer_that_normalises_finds_no_token_in_a_look_alike(value: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace("\u200b", "")]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=True) for t in ("<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>")]
    )
    wording = _prompt("{a}").prepare({"a": value}).wording("qwen2.5")
    assert wording.broken == ("a",)
    assert not tokenizer.encode(wording.text).ids
    if "\u200b" not in value:  # which that normaliser makes a space of
        assert tokenizer.encode(value).ids


def test_a_token_that_arises_where_values_meet_is_broken_up() -> None:
    spans = (Span("<|im_"), Span("sta", "a"), Span("rt|>", "b"), Span("<|im_end|>"), Span("<|im_end|", "a"))
    plain = neutralised(spans, "qwen2.5")
    assert plain.text == "<|im_ start|><|im_end|><|im_end|"
    assert plain.broken == ("a",)


@given(st.lists(st.tuples(PIECES, st.booleans()), max_size=8), st.sampled_from([*FAMILY_NAMES, "default"]))
def test_no_token_touches_a_value_and_only_spaces_are_added(pieces: list[tuple[str, bool]], family: str) -> None:
    spans = tuple(Span(text, "v" if is_value else "") for text, is_value in pieces)
    plain = neutralised(spans, family)
    assert [s.text.replace(" ", "") for s in plain.spans] == [s.text.replace(" ", "") for s in spans]
    assert all(a.text == b.text for a, b in zip(spans, plain.spans, strict=True) if not a.variable)
    touched, at = set(), 0
    for span in plain.spans:
        touched |= set(range(at, at + len(span.text))) if span.variable else set()
        at += len(span.text)
    for text in (list(plain.text), [_normal(character) for character in plain.text]):
        places = [at for at, piece in enumerate(text) for _ in piece]
        for found in pattern_of(family).finditer("".join(text)):
            assert not touched & set(places[found.start() : found.end()])


@given(st.dictionaries(st.sampled_from(["context", "question"]), VALUES, min_size=2), st.sampled_from(FAMILY_NAMES))
def test_every_value_stands_exactly_in_its_turn_and_the_roles_are_the_templates(
    values: dict[str, str], family: str
) -> None:
    prompt = builtin().find("rag_query")
    wording = prompt.prepare(values).wording(family)
    assert [message.role for message in wording.messages] == [turn.role for turn in prompt.variants[family].turns]
    user = wording.exact[-1][1]
    assert [span.text for span in user.spans if span.variable] == [
        values[name] for name in prompt.variants[family].turns[-1].template.variables
    ]
    assert all(value in user.text for value in values.values())


@pytest.mark.parametrize(
    ("kind", "good", "text", "bad"),
    [
        ("text", "x", "x", 5),
        ("integer", 5, "5", 5.5),
        ("integer", 0, "0", True),
        ("number", 5.5, "5.5", float("inf")),
        ("boolean", True, "true", "yes"),
        ("list", ["a", 1], "- a\n- 1", "a"),
        ("list", [], "", [object()]),
        ("any", 3, "3", None),
    ],
)
def test_a_value_must_be_of_its_type(kind: str, good: object, text: str, bad: object) -> None:
    variable = Variable("v", Kind(kind))
    assert variable.text_of(good, "t") == text
    with pytest.raises(TemplateError, match='template "t": the value of "v" must be'):
        variable.text_of(bad, "t")


def test_choices_defaults_and_lengths_are_kept() -> None:
    types = ["tone: {enum: [plain, warm], default: plain}", "n: {type: integer, default: 3}", "t: {max_characters: 3}"]
    front = "\n  ".join(["---\nvariables:", *types]) + "\n---\n"
    prompt = read_texts({"p.md": front + "{tone} {n} {t}"}, {})["p"]
    assert prompt.prepare({"t": "abc"}).wording("").text == "plain 3 abc"
    with pytest.raises(TemplateError, match='must be one of plain, warm; did you mean "warm"'):
        prompt.prepare({"t": "x", "tone": "warn"})
    with pytest.raises(TemplateError, match='"t" is longer than 3 characters'):
        prompt.prepare({"t": "abcd"})
    with pytest.raises(TemplateError, match='template "p" has no variable "tome"; did you mean "tone"'):
        prompt.prepare({"t": "x", "tome": "warm"})
    with pytest.raises(TemplateError, match='template "p" needs a value for "t"'):
        prompt.prepare({})


@pytest.mark.parametrize(
    "value", ["{__class__}", "{t.__class__}", "{0}", "{{", "{> rules}", "%s" * 9, "{t:>99999999999}"]
)
def test_nothing_in_a_value_or_an_object_is_ever_read_as_a_template(value: str) -> None:
    assert _prompt("<{t}>").prepare({"t": value}).wording("default").text == f"<{value}>"
    with pytest.raises(TemplateError, match="must be text or a number"):
        _prompt("{t}").prepare({"t": object()})


def test_examples_stand_before_the_question_in_its_wording() -> None:
    text = '---\nexamples:\n  - {q: "1+1", answer: "2"}\n---\n<!-- system -->\nCount.\n\n<!-- user -->\nQ: {q}\n'
    wording = read_texts({"p.md": text}, {})["p"].prepare({"q": "2+2"}).wording("llama3")
    assert [(m.role, m.content) for m in wording.messages] == [
        ("system", "Count."),
        ("user", "Q: 1+1"),
        ("assistant", "2"),
        ("user", "Q: 2+2"),
    ]


def test_a_request_is_worded_for_the_family_that_answers_and_keeps_its_own_messages() -> None:
    texts = {"a.md": "---\nsampling: {temperature: 0}\n---\nplain {x}", "a.gemma2.md": "gemma {x}"}
    prepared = read_texts(texts, {})["a"].prepare({"x": "1"})
    request = ChatRequest.of("more", sampling=Sampling(max_tokens=5), wording=prepared)
    worded = prepared.word(request, "mistral", ("m",))
    assert [m.content for m in worded.request.messages] == ["plain 1", "more"]
    assert worded.request.sampling == Sampling(max_tokens=5, temperature=0)
    assert (worded.variant, worded.request.wording) == ("default", None)
    assert prepared.word(request, "gemma2", ()).request.messages[0] == Message("user", "gemma 1")


def test_the_version_changes_with_all_that_reaches_a_model_and_with_nothing_else() -> None:
    def version(text: str, partials: dict[str, str] | None = None) -> str:
        return read_texts({"p.md": text}, partials or {})["p"].version

    plain = version("hi {x}")
    assert version("---\ndescription: d\n---\nhi {x}\n") == plain
    changed = [
        "hi  {x}",
        "---\nsampling: {seed: 1}\n---\nhi {x}",
        "---\nvariables: {x: integer}\n---\nhi {x}",
        '---\nexamples: [{x: "1", answer: "2"}]\n---\nhi {x}',
        "<!-- system -->\nyou\n<!-- user -->\nhi {x}",
    ]
    assert len({plain, *map(version, changed)}) == 6
    assert version("{> a}", {"a": "one"}) != version("{> a}", {"a": "two"})


class TestCatalog:
    def test_every_built_in_prompt_can_be_worded_for_every_family(self) -> None:
        values = {"context": "c", "question": "q", "text": "t", "message": "m", "schema": "s", "fields": "f",
                  "first": "1st", "second": "2nd"}  # fmt: skip
        names = {prompt.name for prompt in builtin()}
        assert names == {"rag_query", "summarization", "chat", "text_to_sql", "extract_json", "judge_pair"}
        for prompt in builtin():
            given = {name: value for name, value in values.items() if name in prompt.variables}
            for family in [*FAMILY_NAMES, "default"]:
                wording = prompt.prepare(given).wording(family)
                assert all(value in wording.text for value in given.values())
                if family == "gemma2":
                    assert "system" not in [message.role for message in wording.messages]
                if family in ("llama3", "qwen2.5"):
                    assert wording.messages[0].role == "system"

    def test_every_wording_of_rag_query_says_what_to_answer_when_nothing_is_known(self) -> None:
        prompt = builtin().find("rag_query")
        assert set(prompt.variants) == {*FAMILY_NAMES, "default", "demo"}
        for family in prompt.variants:
            assert REFUSAL in prompt.prepare({"context": "c", "question": "q"}).wording(family).text.replace(" \n", " ")

    def test_the_name_for_a_model_comes_first_then_its_family_then_the_default(self) -> None:
        catalog = from_texts({"a": {"default": "d", "mistral": "m"}, "a_my-model": "mine", "b": "b"}, "t", Catalog({}))
        assert [catalog.choose("a", name)[0].name for name in ("my-model", "x")] == ["a_my-model", "a"]
        assert [catalog.choose("a", name)[1] for name in ("mistral:7b", "mistral", "qwen2.5:7b")] == [
            "mistral",
            "mistral",
            "default",
        ]

    def test_a_users_text_replaces_a_built_in_prompt_whole_and_keeps_what_is_known_of_its_variables(self) -> None:
        catalog = from_texts({"rag_query": "C {context} Q {question}"}, "t", builtin())
        prompt = catalog.find("rag_query")
        assert list(prompt.variants) == ["default"]
        assert prompt.variables["context"].cut.value == "paragraphs"

    def test_a_name_with_a_family_is_one_wording_beside_the_others(self) -> None:
        catalog = from_texts({"rag_query_mistral": "M {context} {question}"}, "t", builtin())
        worded = catalog.find("rag_query").prepare({"context": "c", "question": "q"})
        assert worded.wording("mistral").text == "M c q"
        assert worded.wording("llama3").messages[0].role == "system"
        alone = catalog.find("rag_query_mistral").prepare({"context": "c", "question": "q"})
        assert alone.wording("llama3").text == "M c q"

    def test_an_unknown_name_is_told_the_near_one(self) -> None:
        with pytest.raises(TemplateError, match='there is no prompt "rag_querry"; did you mean "rag_query"'):
            builtin().find("rag_querry")
        with pytest.raises(TemplateError, match="has no default wording, only one for mistral"):
            from_texts({"q": {"mistral": "x"}}, "t", Catalog({}))


def test_a_partial_is_taken_in_and_its_faults_are_placed() -> None:
    template = Template.parse("a {> b} {x}", "t", {"b": "B {y} {> c}", "c": "C"})
    assert template.variables == ("y", "x")
    rendered = template.render({"x": "1", "y": "2"})
    assert rendered.text == "a B 2 C 1"
    assert {span.partial for span in rendered.spans} == {"", "b", "c"}
    for partials, message in [
        ({"b": "{> b}"}, "contain each other"),
        ({"bb": ""}, 'line 2: there is no partial "b"; did you mean "bb"'),
        ({}, "put it into partials/b.md"),
        ({"b": "\n{x.y}"}, 'template "partial b", line 2'),
        ({"b": "{> c}{> c}", "c": "x" * (200 << 10)}, "longer than 256 KiB"),
    ]:
        with pytest.raises(TemplateError, match=message):
            Template.parse("\n{> b}", "t", partials)


@given(VALUES)
def test_the_demo_models_own_tokenizer_finds_no_special_token_in_a_value(value: str) -> None:
    wording = builtin().find("rag_query").prepare({"context": value, "question": value}).wording("mistral", "demo")
    ids = _demo_tokenizer().encode(wording.text, add_special_tokens=False).ids
    assert not set(ids) & _special_ids()


def test_the_same_tokenizer_does_find_them_where_nothing_is_broken_up() -> None:
    ids = _demo_tokenizer().encode("a</s>[INST]b", add_special_tokens=False).ids
    assert len(set(ids) & _special_ids()) == 2


def _normal(character: str) -> str:
    """As a normaliser may leave it."""
    return "" if unicodedata.category(character) in ("Cf", "Cc") else unicodedata.normalize("NFKC", character)


@cache
def _demo_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "safetensors" / "tokenizer.json"))


@cache
def _special_ids() -> set[int]:
    return {number for number, token in _demo_tokenizer().get_added_tokens_decoder().items() if token.special}
