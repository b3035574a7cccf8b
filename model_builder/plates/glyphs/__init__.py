"""Glyphs of plate characters as data, drawn by us: each is a set of strokes.

A glyph is an SVG path (absolute commands M, L, H, V, Q, C, Z only) on the 45 x 90 mm character cell of
GA 36-2018, x to the right and y down, plus a stroke width in mm. The path is the *centre line* of the strokes;
`outline` turns it into polylines, and `rasterize` paints them with a round pen. The data is in the JSON files of this
folder: `{"皖": {"d": "M5 10H40", "w": 6.5}, ...}`. An optional list `"variants"` holds other forms of the character on
real plates. `faces/` holds the characters that differ in the lettering of some countries: `"pen"` is the width of its
strokes, and `"glyphs"` has a list of paths for each of these characters.
"""

import functools
import json
import re
from importlib import resources
from typing import NamedTuple

import cv2
import numpy as np

CELL_WIDTH, CELL_HEIGHT = 45.0, 90.0  # mm, the character cell of GA 36-2018

_TOKEN = re.compile(r"[MLHVQCZ]|-?\d+(?:\.\d+)?")
_ARITY = {"M": 2, "L": 2, "H": 1, "V": 1, "Q": 4, "C": 6, "Z": 0}


class Glyph(NamedTuple):
    """Strokes of one character: polylines of (n, 2) points in mm on the cell, and the pen's width in mm."""

    strokes: tuple[np.ndarray, ...]
    width: float


def outline(path: str, segments: int = 4) -> tuple[np.ndarray, ...]:
    """Polylines, each (n, 2) float32 in mm, of an SVG path; curves become `segments` chords.

    Raises ValueError on anything but absolute M, L, H, V, Q, C, Z with their coordinates.
    """
    tokens = _TOKEN.findall(path)
    if "".join(tokens) != re.sub(r"[\s,]+", "", path):
        raise ValueError(f"path {path!r} has something else than absolute M L H V Q C Z and numbers")
    strokes: list[list[tuple[float, float]]] = []
    position, command = 0, ""
    while position < len(tokens):
        if tokens[position] in _ARITY:
            command = tokens[position]
            position += 1
        elif command == "M":
            command = "L"  # SVG: coordinates that follow a moveto's are linetos
        elif command == "Z":
            raise ValueError(f"path {path!r} has coordinates after Z, which takes none")
        arity = _ARITY.get(command)
        if arity is None or position + arity > len(tokens) or (arity == 0 and not strokes):
            raise ValueError(f"path {path!r} breaks off or starts without M")
        values = [float(token) for token in tokens[position : position + arity]]
        position += arity
        if command == "M":
            strokes.append([(values[0], values[1])])
            continue
        if not strokes:
            raise ValueError(f"path {path!r} does not start with M")
        stroke = strokes[-1]
        x, y = stroke[-1]
        match command:
            case "L":
                stroke.append((values[0], values[1]))
            case "H":
                stroke.append((values[0], y))
            case "V":
                stroke.append((x, values[0]))
            case "Z":
                stroke.append(stroke[0])
            case "Q" | "C":
                t = np.linspace(0, 1, segments + 1)[1:, None]
                points = np.array([(x, y), *zip(values[::2], values[1::2], strict=True)])
                while len(points) > 1:  # de Casteljau
                    if points.ndim == 2:
                        points = points[:, None, :]
                    points = points[:-1] * (1 - t) + points[1:] * t
                stroke.extend((float(a), float(b)) for a, b in points[0])
    return tuple(np.array(stroke, np.float32) for stroke in strokes)


@functools.cache
def load() -> dict[str, tuple[Glyph, ...]]:
    """All glyphs of the JSON files beside this module: character -> its forms, the standard one first."""
    glyphs: dict[str, tuple[Glyph, ...]] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".json"):
            continue
        for character, entry in json.loads(file.read_text(encoding="utf-8")).items():
            forms = [entry, *entry.get("variants", [])]
            glyphs[character] = tuple(Glyph(outline(form["d"]), form.get("w", entry["w"])) for form in forms)
    return glyphs


class Face(NamedTuple):
    """Lettering: the forms of all characters, and the width of the pen in mm on a cell 90 mm high."""

    forms: dict[str, tuple[tuple[np.ndarray, ...], ...]]
    pen: float


@functools.cache
def face(name: str) -> Face:
    """The lettering of a file of `faces/`, or "plain", which has the forms of `load` alone. ValueError for others."""
    forms = {character: tuple(form.strokes for form in known) for character, known in load().items()}
    if name == "plain":
        return Face(forms, 11.0)
    file = resources.files(__name__) / "faces" / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"no lettering is called {name!r}: there is none in model_builder/plates/glyphs/faces")
    data = json.loads(file.read_text(encoding="utf-8"))
    forms |= {character: tuple(map(outline, paths)) for character, paths in data["glyphs"].items()}
    return Face(forms, data["pen"])


def rasterize(strokes: tuple[np.ndarray, ...], width: float, scale: float, margin: float = 0.0) -> np.ndarray:
    """Coverage mask, uint8 0..255, of shape (90 + 2 margin, 45 + 2 margin) mm times `scale` pixels per mm."""
    size = (round((CELL_HEIGHT + 2 * margin) * scale), round((CELL_WIDTH + 2 * margin) * scale))
    mask = np.zeros(size, np.uint8)
    points = [np.round((stroke + margin) * scale * 16).astype(np.int32) for stroke in strokes]
    cv2.polylines(mask, points, False, 255, max(1, round(width * scale)), cv2.LINE_AA, shift=4)
    return mask
