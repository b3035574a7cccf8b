"""What an answer says of a reading, for the server and the programs that read without one. Pure functions."""

from collections.abc import Sequence
from typing import Any

from service.artifact import Grammar
from service.errors import BadParameter, quoted
from service.reading.text import Reading

NO_PLATE = "No plate was found."


def restrict(grammar: Grammar, formats: str | None) -> Grammar | None:
    """What the parameter `format` leaves of a grammar, or None where it is not given."""
    if formats is None:
        return None
    names = {name.strip() for name in formats.split(",")}
    known = [format.name for format in grammar.formats]
    if unknown := sorted(names.difference(known)):
        raise BadParameter(
            f"Parameter format: there is no {quoted(unknown[0])}; choose among {', '.join(known) or 'none'}."
        )
    return grammar.only(names)


def doubt(reading: Reading, min_confidence: float) -> str | None:
    """Why a reading is not given as a plate: no character was seen, or not surely enough. None where it is given."""
    if not reading.text:
        return "No text was found: is this a crop of one plate?"
    if reading.confidence < min_confidence:
        return f"No reading was as sure as {min_confidence:g}: is this a crop of one plate?"
    return None


def plates_of(
    readings: Sequence[tuple[Reading, int, int]], min_confidence: float
) -> tuple[list[dict[str, Any]], str | None]:
    """The plates of an image by its readings, each with width and height in pixels; and a note where there are none."""
    doubts = [doubt(reading, min_confidence) for reading, _, _ in readings]
    plates = [plate(*read) for read, why in zip(readings, doubts, strict=True) if why is None]
    return plates, None if plates else next(iter(doubts), NO_PLATE)


def plate(reading: Reading, width: int, height: int) -> dict[str, Any]:
    """The fields of `wire.Plate` of an image that is one plate, `width` x `height` pixels."""
    return {
        "text": reading.text,
        "confidence": reading.confidence,
        "valid_format": reading.valid_format,
        "formats": reading.formats,
        "characters": [{"char": char, "confidence": confidence} for char, confidence in reading.characters],
        "candidates": [{"text": text, "confidence": confidence} for text, confidence in reading.candidates],
        "box": [(0, 0), (width, 0), (width, height), (0, height)],
    }
