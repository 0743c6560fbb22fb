"""Large frames in overlapping tiles, blended by linear ramps, in memory bounded by the tile."""

import dataclasses
from collections.abc import Callable

import numpy as np

OVERLAP = 32  # low-resolution pixels that neighbouring tiles share
MULTIPLE = 4  # networks get sides divisible by four, see `models.contract`
_SEARCH = 8  # how far, in pixels, a tile may move to start on a whole output pixel


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one axis, in input and in output pixels; stops are not included."""

    start: int
    stop: int
    out_start: int
    out_stop: int


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a part lies in the output, (y, x) in output pixels."""

    size: tuple[int, int]
    origin: tuple[int, int]
    whole_size: tuple[int, int]

    def flip(self, rows, columns):
        """Returns the place when the axes that are -1 run backwards."""
        sides = zip((rows, columns), self.size, self.origin, self.whole_size, strict=True)
        origin = tuple(o if step > 0 else whole - o - size for step, size, o, whole in sides)
        return dataclasses.replace(self, origin=origin)


def is_whole(height: int, width: int, tile: int) -> bool:
    """Returns whether a frame goes through as a whole: `tile` is 0, or no side is longer."""
    return not tile or (tile >= height and tile >= width)


def plan_axis(size: int, out_size: int, *, tile: int, overlap: int = OVERLAP) -> list[Span]:
    """Covers an axis with tiles.

    At whole scales every tile lies exactly. At others a tile's ends may fall between output pixels: the
    length and the starts are varied by up to eight pixels to make that rare, and at worst a tile is half an
    output pixel off.

    Args:
      size: input pixels.
      out_size: output pixels.
      tile: longest tile in input pixels.
      overlap: input pixels that two tiles share at least.

    Raises:
      ValueError: `tile` leaves no room beside the overlap.
    """
    if tile >= size:
        return [Span(0, size, 0, out_size)]
    if tile < 2 * overlap or tile < MULTIPLE:
        raise ValueError(
            f"tile={tile} must be at least twice the overlap of {overlap} pixels (and {MULTIPLE})"
        )
    scale = out_size / size

    def distance(position):  # from the nearest whole output pixel, coarse enough for rounding not to matter
        return round(abs(position * scale - round(position * scale)), 6)

    longest = tile - tile % MULTIPLE
    shortest = max(longest - _SEARCH, 2 * overlap, MULTIPLE)
    length = min(range(longest, shortest - 1, -MULTIPLE), key=distance)
    out_length = round(length * scale)
    spans = []
    start = 0
    while start + length < size:
        spans.append(Span(start, start + length, round(start * scale), round(start * scale) + out_length))
        target = start + length - overlap
        start = min(range(target, max(target - _SEARCH, start), -1), key=distance)
    spans.append(Span(size - length, size, out_size - out_length, out_size))
    return spans


def fade_in(span: Span, previous: Span | None) -> np.ndarray:
    """Returns the weight of a tile over what lies before it on the axis, float32 [out_stop - out_start].

    It rises linearly where the two overlap and is 1 elsewhere; the tile before keeps the rest, so the weights
    of all tiles sum to 1 everywhere.
    """
    weight = np.ones(span.out_stop - span.out_start, np.float32)
    if previous is not None:
        shared = previous.out_stop - span.out_start
        weight[:shared] = (np.arange(shared) + 0.5) / shared
    return weight


def render_tiled(
    render: Callable[[np.ndarray, tuple[int, int], tuple[int, int]], np.ndarray],
    frames: np.ndarray,
    *,
    out_size: tuple[int, int],
    tile: int,
    overlap: int = OVERLAP,
) -> np.ndarray:
    """Renders a window tile by tile.

    Tiles of a row are blended into a band and bands into the result, in the type of the tiles: with integers
    rounding costs one level.

    Args:
      render: from [N, h, w, 3], (h', w') and the part's first output pixel (y, x) to integers or float32
        [T, h', w', 3].
      frames: [N, H, W, 3].
      out_size: (H', W').
      tile: longest side of a tile in input pixels; 0 renders the frame whole.
      overlap: input pixels shared by neighbours.

    Returns:
      [T, H', W', 3].
    """
    height, width = frames.shape[1:3]
    if is_whole(height, width, tile):
        return render(frames, out_size, (0, 0))
    rows = plan_axis(height, out_size[0], tile=tile, overlap=overlap)
    columns = plan_axis(width, out_size[1], tile=tile, overlap=overlap)
    result = None
    for i, row in enumerate(rows):
        band = None  # [T, h', W', 3]
        for j, column in enumerate(columns):
            size = (row.out_stop - row.out_start, column.out_stop - column.out_start)
            origin = (row.out_start, column.out_start)
            part = render(frames[:, row.start : row.stop, column.start : column.stop], size, origin)
            if band is None:
                band = np.zeros((len(part), size[0], out_size[1], 3), part.dtype)
            weight = fade_in(column, columns[j - 1] if j else None)
            _blend(band[:, :, column.out_start : column.out_stop], part, weight[:, None])
        if result is None:
            result = np.zeros((len(band), *out_size, 3), band.dtype)
        weight = fade_in(row, rows[i - 1] if i else None)
        _blend(result[:, row.out_start : row.out_stop], band, weight[:, None, None])
    return result


def _blend(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> None:
    """Puts `above` over `below` of the same type in place; `weight` in [0, 1] broadcasts over one frame."""
    for target, source in zip(below, above, strict=True):
        # Where nothing is written yet `below` is 0 and the weight 1, which leaves the source exactly.
        blended = target + weight * (source.astype(np.float32) - target)
        target[:] = np.floor(blended + 0.5) if np.issubdtype(target.dtype, np.integer) else blended
