"""What an image becomes: the tiles that the tower sees, and its positions in the decoder.

Counted as each family's processor does it, from its settings and the model's. Where the settings
are not at hand, those that the processor's class has by default count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoprune.cost.vision import SIDE, takes_any_size, tile_tokens
from autoprune.models.families import Cutting, wrapper_of
from autoprune.models.files import read_json

Settings = Mapping[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """What an image becomes.

    Attributes:
        tiles: that the tower sees; one where it takes images of any size.
        features: positions of the decoder that the projector's output fills, with those that a
            model puts at the end of rows.
        marks: tokens of text that the processor puts around them.
        assumed: what the count rests on, in words; empty where every image becomes as much.
    """

    tiles: int
    features: int
    marks: int = 0
    assumed: str = ""

    @property
    def tokens(self) -> int:
        """Positions in the decoder."""
        return self.features + self.marks


def picture_of(
    model: Any, settings: Settings | None = None, images: int = 1, size: Size | None = None
) -> Picture:
    """Return what an image becomes in a model.

    Args:
        model: the whole model, on any device (the meta device will do).
        settings: of its image processor; None: those that lie beside its configuration.
        images: in the prompt.
        size: height and width of the image in pixels; None: a square of ``vision.SIDE``.
    """
    size = size or (SIDE, SIDE)
    config = model.config
    if settings is None:
        settings = settings_beside(config)
    seen = _Seen(config, tile_tokens(model), settings, size, images)
    if takes_any_size(config):
        return replace(seen.resized(), assumed=_pixels(size))
    cutting = wrapper_of(config).cutting
    found = _CUT[cutting](seen)
    if cutting in ("whole", "marked"):
        return found
    tiles = "1 tile" if found.tiles == 1 else f"{found.tiles} tiles"
    said = bool(settings) or cutting in ("grid", "grid alone")  # as the model's own settings say
    usual = "" if said else ", cut as its processor does by default"
    return replace(found, assumed=f"{_pixels(size)} in {tiles}{usual}")


def settings_beside(config: Any) -> Settings:
    """Return the settings of the image processor that lies beside a configuration's file.

    Empty where the configuration was read from no directory, or there is none.
    """
    place = getattr(config, "name_or_path", "")
    if not place:
        return {}
    for name, key in (
        ("processor_config.json", "image_processor"),
        ("preprocessor_config.json", ""),
    ):
        path = Path(place) / name
        if path.is_file():
            values = read_json(path)
            found = values.get(key) if key else values
            if isinstance(found, dict):
                return found
    return {}


def _pixels(size: Size) -> str:
    return f"{size[1]} x {size[0]} pixels"


@dataclass(frozen=True)
class _Seen:
    """An image of a size, and what a processor cuts it by."""

    config: Any
    tile: int
    settings: Settings
    size: Size
    images: int

    @property
    def edge(self) -> int:
        """Pixels of a tile's side."""
        side = self.config.vision_config.image_size
        return int(side[0] if isinstance(side, (list, tuple)) else side)

    def stated(self, name: str) -> Mapping[str, Any]:
        """Return a setting that has parts; empty where it is not there, or a plain number."""
        value = self.settings.get(name)
        return value if isinstance(value, Mapping) else {}

    def edge_of(self, name: str, usual: int) -> int:
        """Return the longest edge that a setting states."""
        return int(self.stated(name).get("longest_edge") or usual)

    def whole(self) -> Picture:
        return Picture(1, self.tile)

    def marked(self) -> Picture:
        """Begin and end of the image, each with an empty line."""
        return Picture(1, self.tile, marks=4)

    def grid(self) -> Picture:
        """LLaVA-NeXT, arXiv 2310.03744 and its "AnyRes"; rows of patches that are padding go."""
        points = self.settings.get("image_grid_pinpoints") or self.config.image_grid_pinpoints
        tall, wide = self._best(points)
        rows, columns = tall // self.edge, wide // self.edge
        side = self.edge // int(self.config.vision_config.patch_size)
        high, across = self._unpadded(rows * side, columns * side)
        if most := getattr(self.config, "vision_aspect_ratio", None):
            # "anyres_max_9": beyond nine tiles' worth of patches they are made fewer.
            ratio = math.sqrt(high * across / (int(most.rpartition("_")[2]) * side**2))
            if ratio > 1.1:
                high, across = int(high // ratio), int(across // ratio)
        return Picture(rows * columns + 1, high * (across + 1) + self.tile)

    def grid_alone(self) -> Picture:
        return self.grid() if self.images <= 1 else Picture(1, self.tile + 1)

    def _best(self, points: Any) -> Size:
        """Return the resolution that keeps most of the image, then the smallest of these."""
        height, width = self.size

        def kept(point: Size) -> tuple[int, int]:
            scale = min(point[0] / height, point[1] / width)
            fits = min(int(width * scale) * int(height * scale), width * height)
            return fits, fits - point[0] * point[1]

        best = max(points, key=kept)
        return int(best[0]), int(best[1])

    def _unpadded(self, high: int, across: int) -> Size:
        height, width = self.size
        if width / height > across / high:
            inside = int(round(height * (across / width), 7))
            return high - (high - inside) // 2 * 2, across
        inside = int(round(width * (high / height), 7))
        return high, across - (across - inside) // 2 * 2

    def canvas(self) -> Picture:
        """InternVL, arXiv 2404.16821, section 3.2: dynamic resolution."""
        least = int(self.settings.get("min_patches") or 1)
        most = int(self.settings.get("max_patches") or 12)
        height, width = self.size
        stated = self.stated("size")
        tile = int(stated.get("height") or self.edge) * int(stated.get("width") or self.edge)
        grids = sorted(
            (
                (across, high)
                for across in range(1, most + 1)
                for high in range(1, most // across + 1)
                if across * high >= least
            ),
            key=math.prod,
        )
        away = [abs(width / height - across / high) for across, high in grids]
        nearest = [math.prod(g) for g, far in zip(grids, away, strict=True) if far == min(away)]
        # Of grids of one shape the largest that the image half fills.
        cells = [nearest[0], *(n for n in nearest[1:] if width * height > 0.5 * tile * n)][-1]
        tiles = cells + (cells > 1)
        return Picture(tiles, tiles * self.tile, marks=2)

    def split(self) -> Picture:
        """Idefics3, arXiv 2408.12637, section 4.1."""
        edge = self.edge_of("max_image_size", self.edge)
        rows = columns = 1
        if self.settings.get("do_image_splitting", True):
            height, width = self._enlarged(self.edge_of("size", 4 * edge))
            if width >= height:
                columns = math.ceil(width / edge)
                rows = math.ceil(int(columns * edge / (width / height)) / edge)
            else:
                rows = math.ceil(height / edge)
                columns = math.ceil(int(rows * edge * (width / height)) / edge)
        if rows == columns == 1:
            return Picture(1, self.tile, marks=3)
        tiles = rows * columns + 1
        # Two marks before a tile, a new line behind a row, three marks around the whole image.
        return Picture(tiles, tiles * self.tile, marks=2 * (tiles - 1) + rows + 3)

    def _enlarged(self, longest: int) -> Size:
        height, width = self.size
        if width >= height:
            short = int(longest / (width / height))
            return short + short % 2, longest
        short = int(longest * (width / height))
        return longest, short + short % 2

    def resized(self) -> Picture:
        """Qwen2-VL, arXiv 2409.12191, section 2.1: naive dynamic resolution."""
        vision = self.config.vision_config
        unit = int(vision.patch_size) * int(vision.spatial_merge_size)
        stated = self.stated("size")
        least = self.settings.get("min_pixels") or stated.get("shortest_edge") or 0
        most = self.settings.get("max_pixels") or stated.get("longest_edge") or math.inf
        pixels = math.prod(self.size)
        units = [max(1, round(side / unit)) for side in self.size]
        if math.prod(units) * unit**2 > most:
            scale = math.sqrt(most / pixels)
            units = [max(1, math.floor(side * scale / unit)) for side in self.size]
        elif math.prod(units) * unit**2 < least:
            scale = math.sqrt(least / pixels)
            units = [math.ceil(side * scale / unit) for side in self.size]
        return Picture(1, math.prod(units))


_CUT: Mapping[Cutting, Callable[[_Seen], Picture]] = {
    "whole": _Seen.whole,
    "marked": _Seen.marked,
    "grid": _Seen.grid,
    "grid alone": _Seen.grid_alone,
    "canvas": _Seen.canvas,
    "split": _Seen.split,
}
