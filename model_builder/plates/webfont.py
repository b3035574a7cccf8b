"""A web font of our own strokes: the Chinese characters of plates, for a page on a machine without such a typeface.

A character fills a square here, as in a typeface for reading, not the narrow cell of a plate: its centre lines are
stretched, and its pen is not.
"""

import io
from pathlib import Path
from typing import Final

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from numpy.typing import NDArray

from model_builder.plates import glyphs
from model_builder.plates.kinds import PROVINCES, SPECIAL

CHARACTERS: Final = PROVINCES + SPECIAL
FAMILY: Final = "Plate strokes"
FILE: Final = Path(__file__).resolve().parents[2] / "service" / "http" / "static" / "plates.woff"

_EM, _ASCENT = 1000, 880  # units of the square, and of its part above the line on which Latin letters stand
_PEN = 13  # units of the pen's width for each of its mm on a plate
_SCALE = np.array((_EM / glyphs.CELL_WIDTH, -_EM / glyphs.CELL_HEIGHT))  # units a mm; y is up in a font
_CHORDS = 6  # of a round end
_DATE = 3_786_825_600  # 2024-01-01, in seconds from 1904 on

Points = NDArray[np.float64]


def write(path: Path) -> None:
    """Write the font as WOFF."""
    path.write_bytes(build())


def build() -> bytes:
    """The font as a WOFF file."""
    names = {character: f"uni{ord(character):04X}" for character in CHARACTERS}
    builder = FontBuilder(_EM)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(character): name for character, name in names.items()})
    drawn = {names[character]: _glyph(glyphs.load()[character][0]) for character in CHARACTERS}
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), **drawn})
    builder.setupHorizontalMetrics(
        {name: (_EM, getattr(glyph, "xMin", 0)) for name, glyph in builder.font["glyf"].glyphs.items()}
    )
    builder.setupHorizontalHeader(ascent=_ASCENT, descent=_ASCENT - _EM)
    builder.setupNameTable({"familyName": FAMILY, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=_ASCENT, usWinAscent=_ASCENT, usWinDescent=_EM - _ASCENT)
    builder.setupPost(keepGlyphNames=False)
    font = builder.font
    font["head"].created = font["head"].modified = _DATE  # so that the same strokes give the same font
    font.recalcTimestamp = False
    font.flavor = "woff"
    file = io.BytesIO()
    font.save(file)
    return file.getvalue()


def _glyph(form: glyphs.Glyph) -> object:
    """Filled outlines of all strokes; where they overlap, the rule of nonzero winding fills them too."""
    pen = TTGlyphPen(None)
    for stroke in form.strokes:
        points = np.round(_contour(stroke * _SCALE + (0, _ASCENT), form.width * _PEN / 2)).astype(int)
        pen.moveTo(tuple(points[0]))
        for point in points[1:]:
            pen.lineTo(tuple(point))
        pen.closePath()
    return pen.glyph()


def _contour(line: Points, radius: float) -> Points:
    """The outline of what a round pen draws along a line of points (n, 2): one side, and back on the other."""
    line = line[np.append(True, np.abs(np.diff(line, axis=0)).max(1) > 0)]
    return np.vstack([_side(line, radius), _side(line[::-1], radius)])


def _side(line: Points, radius: float) -> Points:
    """The outline on the left of a line, and round its end."""
    directions = np.diff(line, axis=0)
    angles = np.arctan2(directions[:, 1], directions[:, 0])
    turns = (np.diff(angles) + np.pi) % (2 * np.pi) - np.pi
    points = [line[0] + radius * _left(angles[0])]
    for corner, angle, turn in zip(line[1:-1], angles, turns, strict=False):
        inside = (
            [corner] if turn > 0 else []
        )  # the outline turns back there: through the corner, the winding stays right
        steps = 1 if turn > 0 else max(1, round(_CHORDS * abs(turn) / np.pi))
        arc = [corner + radius * _left(angle + turn * step / steps) for step in range(steps + 1)]
        points += [arc[0], *inside, *arc[1:]]
    ends = angles[-1] - np.pi * np.arange(_CHORDS) / _CHORDS
    return np.array([*points, *(line[-1] + radius * _left(angle) for angle in ends)])


def _left(angle: float) -> Points:
    return np.array((-np.sin(angle), np.cos(angle)))
