"""Contexts with questions, seeded. The right answer is the sentence of the context that holds it, word for word.

One context carries many questions: sentences about present things (answerable), things that are not there
(`entity_absent`), facts that are not told (`fact_absent`) and other matters (`off_topic`). The last three are to be
answered by the refusal sentence of the `rag_query` prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from training.facts import BUILDINGS, COMPOUNDS, FILLERS, KINDS, OFF_TOPIC, OFF_TOPIC_UNSEEN, sentence
from training.names import Split, place

__all__ = ["REFUSAL", "Case", "Group", "QuestionKind", "Shape", "make_group"]

REFUSAL = "I don't have enough information to answer this question."

_TOWN_KINDS = ("building", "building", "building", "person", "person", "company", "book")

QuestionKind = Literal["answerable", "entity_absent", "fact_absent", "off_topic"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question about a group's context. `sentence_index` is the answering one, -1 = none."""

    kind: QuestionKind
    question: str
    answer: str
    sentence_index: int = -1


@dataclass(frozen=True, slots=True)
class Group:
    context: str
    sentences: int
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a group looks like: sentences from `least` to `most`, `questions` in all.

    `hard` is the share of absent people who share one name with a present one; `town` the share of contexts that are
    about one place, whose name is then part of most things' names, as in real documents.
    """

    least: int = 1
    most: int = 4
    questions: int = 8
    hard: float = 0.3
    town: float = 0.0


@dataclass(slots=True)
class _World:
    """What a context tells: (entity index, relation) -> index of the telling sentence."""

    town: str
    entities: list[tuple[str, str]]
    told: dict[tuple[int, str], int]
    sentences: list[str]


def make_group(rng: Random, split: Split, shape: Shape, kinds: tuple[QuestionKind, ...] | None = None) -> Group:
    """A context and its questions; `kinds` asks for just these kinds of question, in order."""
    while True:
        world = _tell(rng, split, shape)
        wanted = kinds or _mix(rng, shape.questions)
        cases = _ask_all(rng, split, shape, world, wanted)
        if cases is not None:
            return Group(_join(rng, world.sentences), len(world.sentences), cases)


def _mix(rng: Random, number: int) -> tuple[QuestionKind, ...]:
    """About a third are refusals, and each kind that is hard is in most groups beside its answerable counterpart."""
    always: tuple[QuestionKind, ...] = ("answerable", "entity_absent", "fact_absent")
    rest = rng.choices(
        ("answerable", "entity_absent", "fact_absent", "off_topic"), (78, 5, 15, 2), k=max(0, number - len(always))
    )
    return (*always, *rest)  # type: ignore[arg-type]


def _tell(rng: Random, split: Split, shape: Shape) -> _World:
    number = rng.randint(shape.least, shape.most)
    # No draw where it is not asked for: the shipped held-out set must not change with it.
    town = place(rng, split) if shape.town and rng.random() < shape.town else ""
    same_kind, kind_of_all = rng.random() < 0.6 and not town, rng.choice(list(KINDS))
    entities: list[tuple[str, str]] = []
    for _ in range(rng.randint(1, number) if number < 3 else rng.randint(1, 1 + number // 2)):
        kind = kind_of_all if same_kind else rng.choice(_TOWN_KINDS if town else list(KINDS))
        if entities and entities[-1][0] == kind and rng.random() < 0.3:
            name = _near(rng, split, kind, entities[-1][1], town)
        else:
            name = _name(rng, split, kind, town)
        if all(name != known for _, known in entities):
            entities.append((kind, name))
    world = _World(town, entities, {}, [])
    for _ in range(80):
        if len(world.sentences) == number:
            break
        _add_sentence(rng, split, world)
    if number > 1 and rng.random() < 0.12:
        world.sentences.append(rng.choice(FILLERS))
    _shuffle(rng, world)
    return world


def _name(rng: Random, split: Split, kind: str, town: str) -> str:
    if town and kind == "building":
        return f"the {rng.choice(BUILDINGS)} of {town}"
    return KINDS[kind].name(rng, split)


def _value(rng: Random, split: Split, world: _World, kind: str, relation: str) -> str:
    if world.town and relation == "home" and rng.random() < 0.7:
        return world.town
    return KINDS[kind].relations[relation].value(rng, split)


def _add_sentence(rng: Random, split: Split, world: _World) -> None:
    index = rng.randrange(len(world.entities))
    kind, entity = world.entities[index]
    relations = KINDS[kind].relations
    if rng.random() < 0.2:
        both = [
            key for key in COMPOUNDS if key[0] == kind and not {(index, key[1]), (index, key[2])} & world.told.keys()
        ]
        if both:
            key = rng.choice(both)
            a, b = (_value(rng, split, world, kind, name) for name in key[1:])
            world.told[index, key[1]] = world.told[index, key[2]] = len(world.sentences)
            world.sentences.append(sentence(rng.choice(COMPOUNDS[key]), e=entity, a=a, b=b))
        return
    name = rng.choice(list(relations))
    if (index, name) not in world.told:
        relation = relations[name]
        form = relation.statements[0] if rng.random() < 0.7 else rng.choice(relation.statements)
        world.told[index, name] = len(world.sentences)
        world.sentences.append(sentence(form, e=entity, v=_value(rng, split, world, kind, name)))


def _shuffle(rng: Random, world: _World) -> None:
    order = list(range(len(world.sentences)))
    rng.shuffle(order)
    world.sentences = [world.sentences[old] for old in order]
    places = {old: new for new, old in enumerate(order)}
    world.told = {fact: places[old] for fact, old in world.told.items()}


def _join(rng: Random, sentences: list[str]) -> str:
    """Mostly running text; sometimes a line or a paragraph for each sentence."""
    return rng.choices((" ", "\n", "\n\n"), (92, 5, 3))[0].join(sentences)


def _near(rng: Random, split: Split, kind: str, entity: str, town: str) -> str:
    """Another thing of the same kind whose name has words in common with `entity`'s."""
    if town and kind == "building" and rng.random() < 0.6:
        return f"the {rng.choice(BUILDINGS)} of {town}"
    other = KINDS[kind].name(rng, split)
    match kind:
        case "building" | "book":
            return entity.rsplit(" ", 1)[0] + " " + other.rsplit(" ", 1)[1]
        case "company":
            return other.split(" ")[0] + " " + entity.split(" ", 1)[1]
        case "server":
            return f"the {other.split(' ')[1]} {entity.split(' ')[2]}"
    return other


def _ask_all(
    rng: Random, split: Split, shape: Shape, world: _World, kinds: tuple[QuestionKind, ...]
) -> tuple[Case, ...] | None:
    """None if the context has no room for a kind that was asked for."""
    facts = list(world.told)
    rng.shuffle(facts)
    cases: list[Case] = []
    for kind in kinds:
        made: Case | None
        match kind:
            case "answerable":
                index, relation = facts[len(cases) % len(facts)]
                place = world.told[index, relation]
                made = Case(kind, _question(rng, world, index, relation), world.sentences[place], place)
            case "entity_absent":
                made = _entity_absent(rng, split, shape, world, *rng.choice(facts))
            case "fact_absent":
                made = _fact_absent(rng, world)
            case "off_topic":
                made = Case(kind, rng.choice(OFF_TOPIC if split == "train" else OFF_TOPIC_UNSEEN), REFUSAL)
        if made is None:
            return None
        cases.append(made)
    return tuple(cases)


def _question(rng: Random, world: _World, index: int, relation: str) -> str:
    kind, entity = world.entities[index]
    return sentence(rng.choice(KINDS[kind].relations[relation].questions), e=entity)


def _entity_absent(rng: Random, split: Split, shape: Shape, world: _World, index: int, relation: str) -> Case:
    """A question whose relation the context has, about something it does not mention."""
    kind, entity = world.entities[index]
    present = {world.entities[told][1] for told, _ in world.told}
    while True:
        absent = _near(rng, split, kind, entity, world.town) if rng.random() < 0.7 else KINDS[kind].name(rng, split)
        if kind == "person" and rng.random() < shape.hard:
            (first, last), (other_first, other_last) = entity.split(" "), absent.split(" ")
            absent = rng.choice((f"{first} {other_last}", f"{other_first} {last}"))
        if absent not in present:
            question = rng.choice(KINDS[kind].relations[relation].questions)
            return Case("entity_absent", sentence(question, e=absent), REFUSAL)


def _fact_absent(rng: Random, world: _World) -> Case | None:
    """A question about a present thing whose answer is not told; half of the time it is told of another thing."""
    index, _ = rng.choice(list(world.told))
    kind, _ = world.entities[index]
    untold = [name for name in KINDS[kind].relations if (index, name) not in world.told]
    if not untold:
        return None
    elsewhere = [
        name for name in untold if any(told == name and world.entities[i][0] == kind for i, told in world.told)
    ]
    relation = rng.choice(elsewhere if elsewhere and rng.random() < 0.5 else untold)
    return Case("fact_absent", _question(rng, world, index, relation), REFUSAL)
