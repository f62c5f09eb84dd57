"""Draw a sheet of samples to look at: ``python -m autoprune.zoo.sheet --out samples.png``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from autoprune.zoo.splits import SPLITS, load_split

_ZOOM, _EDGE, _LINE = 4, 12, 23
_WIDTH = 1000


def sheet(split: str, number: int) -> Image.Image:
    """Return a picture of the first ``number`` samples of a split, each with its questions."""
    samples = list(load_split(split, number))
    side = 48 * _ZOOM
    height = side + 2 * _EDGE
    canvas = Image.new("RGB", (_WIDTH, height * number), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    for row, sample in enumerate(samples):
        assert sample.image is not None
        top = row * height + _EDGE
        picture = sample.image.resize((side, side), Image.Resampling.NEAREST)
        canvas.paste(picture, (_EDGE, top))
        for line, turn in enumerate(sample.turns):
            where = (side + 3 * _EDGE, top + line * _LINE)
            pen.text(where, turn.source, fill=(130, 130, 130), font=font)
            where = (where[0] + 80, where[1])
            pen.text(where, f"{turn.question}  {turn.answer}", fill="black", font=font)
    return canvas


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(prog="python -m autoprune.zoo.sheet", description=__doc__)
    parser.add_argument("--split", choices=list(SPLITS), default="search")
    parser.add_argument("--number", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    sheet(given.split, given.number).quantize(128).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
