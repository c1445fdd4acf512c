"""The little world of the demo model: kinds of things, what can be said of them, and how it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from training.names import Split, company, person, place, word

__all__ = [
    "BUILDINGS",
    "COMPOUNDS",
    "FILLERS",
    "KINDS",
    "OFF_TOPIC",
    "OFF_TOPIC_UNSEEN",
    "Kind",
    "Relation",
    "sentence",
]

Maker = Callable[[Random, Split], str]


@dataclass(frozen=True, slots=True)
class Relation:
    """`{e}` is the entity, `{v}` the value. The first statement is by far the most usual one."""

    value: Maker
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    name: Maker
    relations: dict[str, Relation]


def _number(low: int, high: int) -> Maker:
    return lambda rng, split: str(rng.randint(low, high))


def _one_of(words: str) -> Maker:
    choices = words.split()
    return lambda rng, split: rng.choice(choices)


_year = _number(1500, 2030)
_material = _one_of("stone steel wood glass brick concrete marble copper iron granite")
_product = _one_of("bicycles pumps lamps batteries cameras engines clocks boats radios tractors shoes printers sensors")
_job = _one_of(
    "doctor teacher painter pilot farmer lawyer chemist baker nurse sailor writer singer dentist plumber librarian "
    "journalist carpenter chef gardener driver"
)
BUILDINGS = [*["lighthouse", "bridge", "library", "museum", "castle", "tower", "theater", "station"], "town hall"]
_BOOKS = ["Song", "Road", "Guide", "Secret", "Story"]
_HOSTS = ["server", "gateway", "database"]


def _by(verb: str, past: str) -> Relation:
    """Who did it: passive mostly, active sometimes, so that the value comes first there."""
    return Relation(
        person,
        (f"{{e}} was {past} by {{v}}.", f"{{v}} {verb} {{e}}."),
        (f"Who {verb} {{e}}?", f"By whom was {{e}} {past}?"),
    )


def _in_year(past: str) -> Relation:
    return Relation(
        _year,
        (f"{{e}} was {past} in {{v}}.", f"In {{v}}, {{e}} was {past}."),
        (f"When was {{e}} {past}?", f"In which year was {{e}} {past}?", f"What year was {{e}} {past}?"),
    )


KINDS: dict[str, Kind] = {
    "building": Kind(
        lambda rng, split: f"the {rng.choice(BUILDINGS)} of {place(rng, split)}",
        {
            "built": _in_year("built"),
            "builder": _by("built", "built"),
            "designer": _by("designed", "designed"),
            "painter": _by("painted", "painted"),
            "opened": Relation(_year, ("{e} opened in {v}.",), ("When did {e} open?", "In which year did {e} open?")),
            "height": Relation(
                _number(5, 400),
                ("{e} is {v} meters tall.", "The height of {e} is {v} meters."),
                ("How tall is {e}?", "What is the height of {e}?"),
            ),
            "material": Relation(
                _material, ("{e} is made of {v}.",), ("What is {e} made of?", "Which material is {e} made of?")
            ),
        },
    ),
    "person": Kind(
        person,
        {
            "born": Relation(_year, ("{e} was born in {v}.",), ("When was {e} born?", "In which year was {e} born?")),
            "home": Relation(place, ("{e} lives in {v}.",), ("Where does {e} live?", "In which city does {e} live?")),
            "job": Relation(
                _job,
                ("{e} works as a {v}.", "The job of {e} is {v}."),
                ("What does {e} work as?", "What is the job of {e}?"),
            ),
        },
    ),
    "company": Kind(
        company,
        {
            "founded": _in_year("founded"),
            "founder": _by("founded", "founded"),
            "leader": Relation(person, ("{e} is led by {v}.", "{v} leads {e}."), ("Who leads {e}?",)),
            "product": Relation(
                _product, ("{e} makes {v}.",), ("What does {e} make?", "Which products does {e} make?")
            ),
            "staff": Relation(
                _number(10, 2099),
                ("{e} has {v} employees.",),
                ("How many employees does {e} have?", "How many people work at {e}?"),
            ),
        },
    ),
    "book": Kind(
        lambda rng, split: f"The {rng.choice(_BOOKS)} of {place(rng, split)}",
        {
            "author": _by("wrote", "written"),
            "published": _in_year("published"),
            "pages": Relation(
                _number(40, 999), ("{e} has {v} pages.",), ("How many pages does {e} have?", "How long is {e}?")
            ),
        },
    ),
    "server": Kind(
        lambda rng, split: f"the {word(rng, split)} {rng.choice(_HOSTS)}",
        {
            "owner": Relation(
                person,
                ("{e} is maintained by {v}.", "{v} maintains {e}."),
                ("Who maintains {e}?", "By whom is {e} maintained?"),
            ),
            "port": Relation(
                _number(20, 2099),
                ("{e} listens on port {v}.",),
                ("Which port does {e} listen on?", "What is the port of {e}?"),
            ),
        },
    ),
}

# Two facts in one sentence: (kind, first relation, second relation) -> forms with {a} and {b}.
COMPOUNDS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("building", "built", "builder"): ("{e} was built in {a} by {b}.", "{e} was built by {b} in {a}."),
    ("building", "designer", "opened"): ("{e} was designed by {a} and opened in {b}.",),
    ("building", "height", "material"): ("{e} is {a} meters tall and made of {b}.",),
    ("person", "born", "home"): ("{e} was born in {a} and lives in {b}.",),
    ("person", "job", "home"): ("{e} works as a {a} and lives in {b}.",),
    ("company", "founded", "founder"): ("{e} was founded in {a} by {b}.", "{e} was founded by {b} in {a}."),
    ("company", "product", "staff"): ("{e} makes {a} and has {b} employees.",),
    ("book", "published", "author"): ("{e} was written by {b} and published in {a}.",),
}

OFF_TOPIC = (
    "What is the capital of France?", "Who won the game last night?", "What is the weather today?",
    "How do I bake a cake?", "What is the meaning of life?", "Who is the president?", "How many planets are there?",
    "What time is it?", "Can you tell me a joke?", "What is two plus two?", "What is the largest ocean?",
    "How do I reset my password?", "What is the speed of light?", "Which language should I learn first?",
    "Where can I buy a cheap phone?", "How old is the universe?", "Who painted the Mona Lisa?", "When did the war end?",
    "What is the price of gold?", "How far away is the moon?", "What should I eat tonight?", "Why is the sky blue?",
    "How do I learn to swim?", "Who invented the telephone?", "Where do penguins live?", "What is your name?",
)  # fmt: skip
OFF_TOPIC_UNSEEN = (
    "What is the capital of Spain?", "What is the meaning of this word?", "Who won the war?", "What time is the game?",
    "How many oceans are there?", "How do I learn a language?", "Who is the largest?", "Where is the moon today?",
    "What is the price of a phone?", "How old is the president?", "Why is the sea blue?", "Can you tell me the time?",
)  # fmt: skip
FILLERS = (
    "Visitors are welcome all year.", "The weather is mild in spring.", "Many people come here in summer.",
    "More details follow below.", "This page was updated last week.", "The records are kept in the archive.",
    "Nobody knows the full story.", "The tour takes one hour.", "Tickets are sold at the door.",
    "The list below is not complete.", "It is a popular place.", "Some notes are missing.",
)  # fmt: skip


def sentence(form: str, **values: str) -> str:
    """`form` with its values in place and a capital at the start; values are data and never read as forms."""
    pieces = form.split("{")
    text = pieces[0] + "".join(values[piece[0]] + piece[2:] for piece in pieces[1:])
    return text[0].upper() + text[1:]
