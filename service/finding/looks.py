"""Looks: at which scales, and at which parts, the finder looks at a photograph.

The rule, by the longer side of the photograph in pixels:

===================== ===================================================================================
up to COARSE          one look at its own size
up to FINE            a look at up to 640 pixels, and one at COARSE for plates that fill the photograph
more                  a look at up to 960 pixels, and one at COARSE
===================== ===================================================================================

Where these find no plate in a photograph with a longer side of more than TILED, the finder looks at four tiles of it,
each 0.6 of its width and height.
"""

from collections.abc import Iterator, Sequence
from typing import Final

Size = tuple[int, int]  # height and width

COARSE: Final = 224  # pixels of the longer side in the look for large plates
FINE: Final = 1200  # pixels of the longer side beyond which plates are likely small
TILED: Final = 1500  # pixels of the longer side from which a tile shows half as much again
_TILE: Final = 0.6  # share of width and height
WIDE_FROM: Final = 640  # pixels of the longer side
WIDER_FROM: Final = 1600
WIDE_GRIDS: Final = ((0.6, 2, WIDE_FROM), (0.4, 3, WIDER_FROM))  # share of a side, tiles a side, from which size on


def looks(width: int, height: int, sizes: Sequence[Size], fine: int = FINE) -> Iterator[tuple[Size, int]]:
    """The canvases, among `sizes`, for a photograph, each with the most pixels that the longer side may have on it.

    A photograph whose longer side has over `fine` pixels gets a larger canvas.
    """
    longer = max(width, height)
    small, *larger = sorted(sizes, key=lambda size: size[0] * size[1])
    if longer > COARSE and larger:
        areas = sorted({size[0] * size[1] for size in larger})
        area = areas[-1] if longer > fine else areas[0]
        size = max((size for size in larger if size[0] * size[1] == area), key=lambda size: _scale(width, height, size))
        yield size, max(size)
    yield small, min(COARSE, max(small))


def tiles(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the tiles of a photograph; none where it is small."""
    if max(width, height) <= TILED:
        return []
    columns, rows = (
        ((0, round(_TILE * length)), (length - round(_TILE * length), length)) for length in (width, height)
    )
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def all_tiles(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the tiles of a wide search: 2 x 2 in a photograph of over WIDE_FROM pixels, and
    3 x 3 smaller ones in one of over WIDER_FROM."""
    longer = max(width, height)
    grids = [(share, count) for share, count, least in WIDE_GRIDS if longer > least]
    return [
        (left, top, left + round(share * width), top + round(share * height))
        for share, count in grids
        for top in _starts(height, share, count)
        for left in _starts(width, share, count)
    ]


def _starts(length: int, share: float, count: int) -> list[int]:
    """Where tiles of this share of a length begin."""
    return [round(number * (length - round(share * length)) / (count - 1)) for number in range(count)]


def _scale(width: int, height: int, size: Size) -> float:
    """Pixels of the canvas a pixel of the photograph, where it fits."""
    return min(size[0] / height, size[1] / width)
