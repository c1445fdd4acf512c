"""Made-up people, places and things. Every name belongs to one split by a hash, so that no split has seen another's."""

from __future__ import annotations

import zlib
from random import Random
from typing import Literal

__all__ = ["Split", "company", "person", "place", "split_of", "word"]

Split = Literal["train", "validation", "heldout"]

_ONSETS = "b br c d dr f g gl h j k kr l m n p pr r s sh st t tr v w y z th".split()
_VOWELS = "a e i o u a e i o u ai ea io au".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "x", "th", "nd", "rk", "t", "k"]
_FIRST = (
    "Anna Maria Ines John Peter Laura Marta Carlos David Emma Erik Fiona George Hanna Ivan Julia Karl Lena Lucas Mark "
    "Nina Oscar Paula Quentin Rosa Samuel Sofia Thomas Ursula Victor Wendy Xavier Yara Zoe Alice Bruno Clara Daniel "
    "Elena Felix Greta Hugo Irene Jonas Kate Leo Mona Noah Olga Pavel Rita Simon Tara Uwe Vera Walter Adam Bella Cyril "
    "Diana Edgar Flora Gavin Helen Isaac Jane Kevin Lydia Martin Nora Otto Petra Ralph Sarah Tobias Viola William "
    "Yusuf Amir Chen Dmitri Fatima Hiro Kofi Leila Mei Omar Priya Ravi Sana"
).split()
_LAST = (
    "Calder Smith Berg Dupont Novak Silva Moore Weber Rossi Garcia Lopez Jensen Larsen Fischer Keller Brandt Moreau "
    "Laurent Costa Pereira Ivanov Petrov Horvat Kovac Nagy Olsen Lind Strand Hale Parker Turner Mason Cooper Barker "
    "Fletcher Archer Webb Stone Wood Field Marsh Banks Rivers Hill Lake Frost Snow Winter Young Long Short Black White "
    "Brown Green Gray Adler Vogel Baum Stein Roth Klein Gross Lang Kaiser Koenig Tanaka Sato Kim Park Singh Patel Khan "
    "Haddad Mensah Okafor Diallo Mbeki Reyes Cruz Vega Luna Torres Ramos Ortiz Medina"
).split()
_CITIES = (
    "Paris London Berlin Madrid Rome Oslo Vienna Prague Lisbon Dublin Athens Warsaw Boston Chicago Denver Seattle "
    "Toronto Sydney Tokyo Kyoto Delhi Cairo Lagos Lima Quito Havana Geneva Munich Milan Naples Porto Seville Bergen "
    "Malmo Turku Riga Vilnius Krakow Zagreb Split"
).split()
_COMPANY_KINDS = "Labs Industries Group Systems Motors".split()


def split_of(name: str) -> Split:
    """The split a single word belongs to: a tenth each for validation and held-out, the rest for training."""
    place = zlib.crc32(name.lower().encode()) % 10
    return "heldout" if place == 0 else "validation" if place == 1 else "train"


def _of(split: Split, rng: Random, names: list[str]) -> str:
    while True:
        name = rng.choice(names)
        if split_of(name) == split:
            return name


def word(rng: Random, split: Split) -> str:
    """A pronounceable invented name of 4 to 10 letters."""
    while True:
        syllables = rng.choice((1, 2, 2, 2, 3))
        made = "".join(
            rng.choice(_ONSETS)
            + rng.choice(_VOWELS)
            + (rng.choice(_CODAS) if place == syllables - 1 or rng.random() < 0.3 else "")
            for place in range(syllables)
        )
        if 4 <= len(made) <= 10 and split_of(made) == split:
            return made.capitalize()


def person(rng: Random, split: Split) -> str:
    first = _of(split, rng, _FIRST) if rng.random() < 0.45 else word(rng, split)
    last = _of(split, rng, _LAST) if rng.random() < 0.45 else word(rng, split)
    return f"{first} {last}"


def place(rng: Random, split: Split) -> str:
    return _of(split, rng, _CITIES) if rng.random() < 0.2 else word(rng, split)


def company(rng: Random, split: Split) -> str:
    return f"{word(rng, split)} {rng.choice(_COMPANY_KINDS)}"
