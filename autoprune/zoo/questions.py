"""The families of questions, modelled on those of visual question answering at large.

Each asks about a scene, has one answer that is a single token, and knows the accuracy that
needs no image (``chance``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoprune.zoo.dice import Dice
from autoprune.zoo.digits import COLOURS, GRID, PLACES, Item

YES_NO = ("yes", "no")
LETTERS = ("A", "B", "C", "D")
COLOUR_NAMES = tuple(COLOURS)
DIGITS = tuple(str(n) for n in range(10))

Asked = tuple[str, str]
STEPS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Attributes:
        name: also its task's name, as ``digits_<name>``.
        chance: accuracy of always giving the commonest answer to a question of this form
            (:func:`form`), 0..1; measured on 100,000 images.
        answers: every answer that can occur.
        ask: draws a question and its answer for a scene, or None where the scene has none.
        choice: whether the question lists its choices.
    """

    name: str
    chance: float
    answers: tuple[str, ...]
    ask: Callable[[Sequence[Item], Dice], Asked | None]
    choice: bool = False


def _read(scene: Sequence[Item], dice: Dice) -> Asked:
    item = dice.pick(scene)
    return f"What digit is at the {PLACES[item.cell]}?", str(item.digit)


def _colour(scene: Sequence[Item], dice: Dice) -> Asked:
    item = dice.pick(scene)
    return f"What colour is the {item.digit}?", COLOUR_NAMES[item.colour]


def _where(scene: Sequence[Item], dice: Dice) -> Asked:
    item = dice.pick(scene)
    return f"Where is the {item.digit}?", PLACES[item.cell]


def holds(first: Item, relation: str, second: Item) -> bool:
    """Tell whether ``first`` stands, say, left of ``second``, in whatever rows."""
    down, right = STEPS[relation]
    rows = first.cell // GRID - second.cell // GRID
    columns = first.cell % GRID - second.cell % GRID
    return rows * down + columns * right > 0


def _relation(scene: Sequence[Item], dice: Dice) -> Asked:
    wanted = dice.below(2) == 0
    while True:
        first, second = dice.some(scene, 2)
        relation = dice.pick(tuple(STEPS))
        if holds(first, relation, second) == wanted:
            answer = YES_NO[not wanted]
            return f"Is the {first.digit} {relation} the {second.digit}?", answer


def _exist(scene: Sequence[Item], dice: Dice) -> Asked:
    """Ask for a digit of a colour, as POPE does: a third of the noes each is easy, likely, hard.

    The hard ones name a digit and a colour that are both there, but apart.
    """
    item = dice.pick(scene)
    digit, colour = item.digit, item.colour
    answer = YES_NO[dice.below(2)]
    if answer == "no":
        kind = dice.below(3)
        others = [i.colour for i in scene if i.colour != item.colour]
        if kind == 2 and others:
            colour = dice.pick(others)
        else:
            there = {i.digit for i in scene}
            digit = dice.pick([n for n in range(10) if n not in there])
            colour = dice.below(len(COLOUR_NAMES)) if kind == 0 else colour
    return f"Is there a {COLOUR_NAMES[colour]} {digit}?", answer


def _count(scene: Sequence[Item], dice: Dice) -> Asked:
    if dice.below(2):
        return "How many digits are there?", str(len(scene))
    present = dice.uniform() < 0.7
    colour = dice.pick(scene).colour if present else dice.below(len(COLOUR_NAMES))
    number = sum(item.colour == colour for item in scene)
    return f"How many digits are {COLOUR_NAMES[colour]}?", str(number)


def _choices(options: Sequence[str]) -> str:
    return ", ".join(f"{letter}: {o}" for letter, o in zip(LETTERS, options, strict=True))


def _compare(scene: Sequence[Item], dice: Dice) -> Asked | None:
    if len(scene) < len(LETTERS):
        return None
    items = dice.some(scene, len(LETTERS))
    digits = [item.digit for item in items]
    word, extreme = dice.pick((("largest", max), ("smallest", min)))
    answer = LETTERS[digits.index(extreme(digits))]
    options = _choices([PLACES[item.cell] for item in items])
    return f"Which place holds the {word} digit? {options}", answer


_SPREAD = 8  # furthest that a wrong choice lies from the sum


def _sum(scene: Sequence[Item], dice: Dice) -> Asked:
    first, second = dice.some(scene, 2)
    total = first.digit + second.digit
    # The answer's rank among the choices is drawn first, so that the middle is no hint.
    lower = min(dice.below(len(LETTERS)), total)
    values = [total - n for n in dice.some(range(1, min(total, _SPREAD) + 1), lower)]
    values += [total + n for n in dice.some(range(1, _SPREAD + 1), 3 - len(values))]
    values = dice.some([*values, total], len(LETTERS))
    places = f"{PLACES[first.cell]} and {PLACES[second.cell]}"
    answer = LETTERS[values.index(total)]
    return (
        f"What is the sum of the digits at {places}? {_choices([str(v) for v in values])}",
        answer,
    )


def neighbours(scene: Sequence[Item]) -> list[tuple[Item, str, Item]]:
    """Return all (digit, relation, anchor) in which the digit stands directly beside the anchor."""
    by_cell = {item.cell: item for item in scene}
    found = []
    for anchor in scene:
        row, column = divmod(anchor.cell, GRID)
        for relation, (down, right) in STEPS.items():
            r, c = row + down, column + right
            if 0 <= r < GRID and 0 <= c < GRID and r * GRID + c in by_cell:
                found.append((by_cell[r * GRID + c], relation, anchor))
    return found


def _two_hop(scene: Sequence[Item], dice: Dice) -> Asked | None:
    found = neighbours(scene)
    if not found:
        return None
    target, relation, anchor = dice.pick(found)
    question = f"What colour is the digit directly {relation} the {anchor.digit}?"
    return question, COLOUR_NAMES[target.colour]


def _order(scene: Sequence[Item], dice: Dice) -> Asked:
    word, rank = dice.pick(
        (("largest", -1), ("second largest", -2), ("smallest", 0), ("second smallest", 1))
    )
    item = sorted(scene, key=lambda i: i.digit)[rank]
    if dice.below(2):
        return f"Where is the {word} digit?", PLACES[item.cell]
    return f"What colour is the {word} digit?", COLOUR_NAMES[item.colour]


def _total(scene: Sequence[Item], dice: Dice) -> Asked:
    return "What is the sum of all digits?", str(sum(item.digit for item in scene))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("read", 0.10, DIGITS, _read),
        Family("colour", 1 / 6, COLOUR_NAMES, _colour),
        Family("where", 1 / 9, PLACES, _where),
        Family("relation", 0.50, YES_NO, _relation),
        Family("exist", 0.50, YES_NO, _exist),
        Family("count", 0.385, tuple(str(n) for n in range(7)), _count),
        Family("compare", 0.25, LETTERS, _compare, choice=True),
        Family("sum", 0.25, LETTERS, _sum, choice=True),
        Family("two_hop", 1 / 6, COLOUR_NAMES, _two_hop),
        Family("order", 0.139, (*PLACES, *COLOUR_NAMES), _order),
        Family("total", 0.054, tuple(str(n) for n in range(3, 40)), _total),
    )
}

QUESTIONS_PER_IMAGE = 8

_NAMES = re.compile(
    r"\b(?:" + "|".join([*PLACES, *COLOUR_NAMES]) + r"|\d+)\b(?!-)|(?<=[ABCD]: )[\w-]+"
)


def form(question: str) -> str:
    """Return the question with its digits, colours and places taken out."""
    return _NAMES.sub("_", question)


def words() -> list[str]:
    """Return every word of every question and answer, in a fixed order."""
    numbers = [str(n) for n in range(40)]
    text = (
        "What Where Which Is How many is are the a at of all and there digit digits colour place "
        "holds left right above below directly sum largest smallest second"
    )
    return [*text.split(), *numbers, *COLOUR_NAMES, *PLACES, *YES_NO, *LETTERS]


def ask(
    scene: Sequence[Item],
    dice: Dice,
    number: int = QUESTIONS_PER_IMAGE,
    families: Sequence[str] = tuple(FAMILIES),
    known: Mapping[str, Family] = FAMILIES,
) -> list[tuple[str, str, str]]:
    """Ask ``number`` questions of different families, as far as the scene allows.

    Returns:
        Triples (question, answer, family).
    """
    asked: list[tuple[str, str, str]] = []
    for name in dice.some(families, len(families)):
        if len(asked) == number:
            break
        drawn = known[name].ask(scene, dice)
        if drawn is not None:
            asked.append((*drawn, name))
    return asked
