"""What the backbone learns from, beyond the questions it is later asked.

*Statements* come first, as captions do in LLaVA's alignment stage: "7 red top-left" in any
order, "left 7 3", "directly left 7 blue", "smallest 1 4 7". Most of their tokens are answers,
against one of eleven in a question, and looking a digit up by any of its traits is learnt in 150
steps instead of 700. *Exercises* part what a hard family asks for at once: choosing a letter, and
adding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.zoo.dice import Dice
from autoprune.zoo.digits import PLACES, Item
from autoprune.zoo.questions import (
    COLOUR_NAMES,
    FAMILIES,
    LETTERS,
    STEPS,
    Asked,
    Family,
    ask,
    holds,
    neighbours,
)

STATEMENT = "statement"


def _choose(question: str, answer: str, others: Sequence[str], dice: Dice) -> Asked:
    options = dice.some([answer, *dice.some(others, 3)], 4)
    listed = ", ".join(f"{a}: {b}" for a, b in zip(LETTERS, options, strict=True))
    return f"{question} {listed}", LETTERS[options.index(answer)]


def _choose_place(scene: Sequence[Item], dice: Dice) -> Asked:
    item = dice.pick(scene)
    others = [place for place in PLACES if place != PLACES[item.cell]]
    return _choose(f"Where is the {item.digit}?", PLACES[item.cell], others, dice)


def _choose_digit(scene: Sequence[Item], dice: Dice) -> Asked:
    item = dice.pick(scene)
    others = [str(n) for n in range(10) if n != item.digit]
    return _choose(f"What digit is at the {PLACES[item.cell]}?", str(item.digit), others, dice)


def _open_sum(scene: Sequence[Item], dice: Dice) -> Asked:
    first, second = dice.some(scene, 2)
    places = f"{PLACES[first.cell]} and {PLACES[second.cell]}"
    return f"What is the sum of the digits at {places}?", str(first.digit + second.digit)


EXERCISES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("choose_place", 0.25, LETTERS, _choose_place, choice=True),
        Family("choose_digit", 0.25, LETTERS, _choose_digit, choice=True),
        Family("open_sum", 0.1, tuple(str(n) for n in range(1, 18)), _open_sum),
    )
}

HARD = ("compare", "sum", "two_hop", "order", "total")
_REST = tuple(name for name in FAMILIES if name not in HARD)


@dataclass(frozen=True)
class Stage:
    """A stretch of the curriculum, from ``start`` (share of all steps).

    Attributes:
        start: 0..1.
        statements: statements an image; 0 means questions instead.
        exercises: whether exercises are among the questions.
    """

    start: float
    statements: int = 0
    exercises: bool = False


CURRICULUM = (Stage(0.0, statements=16), Stage(0.18, exercises=True), Stage(0.65))


def state(scene: Sequence[Item], dice: Dice) -> str:
    """Return one statement: the traits of a digit, two digits' places, or the digits in order."""
    kind = dice.below(6)
    if kind == 0:
        word, down = dice.pick((("smallest", False), ("largest", True)))
        return " ".join([word, *(str(n) for n in sorted((i.digit for i in scene), reverse=down))])
    if kind == 1:
        while True:
            first, second = dice.some(scene, 2)
            relation = dice.pick(tuple(STEPS))
            if holds(first, relation, second):
                return f"{relation.split()[0]} {first.digit} {second.digit}"
    if kind == 2 and (found := neighbours(scene)):
        target, relation, anchor = dice.pick(found)
        return f"directly {relation.split()[0]} {anchor.digit} {COLOUR_NAMES[target.colour]}"
    item = dice.pick(scene)
    return " ".join(dice.some((str(item.digit), COLOUR_NAMES[item.colour], PLACES[item.cell]), 3))


def lesson(scene: Sequence[Item], dice: Dice, stage: Stage) -> list[tuple[str, str, str]]:
    """Return what is learnt from a scene: triples (question, answer, family).

    A statement has no question, and its words are the answer.
    """
    if stage.statements:
        return [("", state(scene, dice), STATEMENT) for _ in range(stage.statements)]
    rest = (*_REST, *EXERCISES) if stage.exercises else _REST
    return ask(scene, dice, families=(*HARD, *dice.some(rest, 5)), known={**FAMILIES, **EXERCISES})
