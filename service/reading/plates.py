"""What an answer says of a reading, for the server and the programs that read without one. Pure functions."""

from collections.abc import Sequence
from typing import Any

from service.artifact import Grammar
from service.errors import BadParameter, quoted
from service.finding.refine import Refined
from service.reading.text import Reading

ANY = "any"  # in place of the names of regions: all of them, whatever is usual here
MOST_TEXTS = 10  # candidates that may be asked for
NO_PLATE = "No plate was found."
# Keeps over 99 % of the rendered plates that are read exactly, and drops over 99 % of photographs that are no crop of a
# plate: docs/benchmarks.md has the table, which `model_builder evaluate --thresholds` prints.
MIN_CONFIDENCE = 0.1
SURELY = 0.9  # probability of a plate from which it is given whatever its text: docs/finding.md has the table
JOINT = 0.1  # the least probability of any other plate and its text together


def restrict(
    grammar: Grammar, formats: str | None, regions: str | None = None, usual: Sequence[str] = ()
) -> Grammar | None:
    """What the parameters `format` and `region` leave of a grammar, or None where they leave all.

    `usual` are the regions where neither is given. Raises BadParameter.
    """
    setting = "Parameter region"
    if formats is None and regions is None:
        regions, setting = ",".join(usual) or None, "LPR_REGIONS (region=any overrides it)"
    if regions is not None and regions.strip().lower() == ANY:
        regions = None
    if formats is None and regions is None:
        return None
    left = grammar
    if regions is not None:
        left = left.within(_known(setting, regions.lower(), grammar.regions, f" or {ANY}"))
    if formats is not None:
        left = left.only(_known("Parameter format", formats, [format.name for format in grammar.formats]))
    if not left.formats:
        raise BadParameter(f"Parameter format: no plate of the regions {quoted(regions or '')} has such a format.")
    return left


def _known(setting: str, names: str, known: Sequence[str], further: str = "") -> set[str]:
    """The names between commas; raises BadParameter for one that is not known."""
    found = {name.strip() for name in names.split(",")}
    if unknown := sorted(found.difference(known)):
        raise BadParameter(
            f"{setting}: there is no {quoted(unknown[0])}; choose among {', '.join(known) or 'none'}{further}."
        )
    return found


def likeliest(readings: Sequence[Reading], plates: Sequence[Refined | None]) -> int:
    """The number of the right one of several readings of a plate, each in another way: as what it was found, or as an
    image that is one plate."""

    def odds(number: int) -> float:
        plate, confidence = plates[number], _confidence(readings[number])
        return plate.odds(confidence) if plate else confidence

    return max(range(len(readings)), key=odds)


def doubt(reading: Reading, min_confidence: float | None, plate: Refined | None = None) -> str | None:
    """Why a reading is not given as a plate, or None where it is given.

    A crop must have a text of at least `min_confidence`, by default MIN_CONFIDENCE. A plate that was found is given if
    it is SURELY one, or if the probability that it is one, times that of its text, is at least JOINT; with
    `min_confidence`, if its text has that.
    """
    if plate is None:
        least = MIN_CONFIDENCE if min_confidence is None else min_confidence
        if not reading.text:
            return "No text was found: is this a crop of one plate?"
        return (
            None
            if reading.confidence >= least
            else f"No reading was as sure as {least:g}: is this a crop of one plate?"
        )
    if min_confidence is not None:
        return None if reading.confidence >= min_confidence else f"No reading was as sure as {min_confidence:g}."
    unsure = plate.probability < SURELY and plate.probability * _confidence(reading) < JOINT
    return "What was found is too unsure to be a plate." if unsure else None


def _confidence(reading: Reading) -> float:
    """The confidence that there is this text; 0 where there is none."""
    return reading.confidence if reading.text else 0.0


def plates_of(
    readings: Sequence[tuple[Reading, int, int, Refined | None]], min_confidence: float | None
) -> tuple[list[dict[str, Any]], str | None]:
    """The plates of an image by its readings, each with the image's width and height in pixels and where it was found;
    and a note where there are none."""
    doubts = [doubt(reading, min_confidence, found) for reading, _, _, found in readings]
    plates = [plate(*read) for read, why in zip(readings, doubts, strict=True) if why is None]
    return plates, None if plates else next(iter(doubts), NO_PLATE)


def plate(reading: Reading, width: int, height: int, found: Refined | None) -> dict[str, Any]:
    """The fields of `wire.Plate`: of what was found, or of an image that is one plate, `width` x `height` pixels."""
    return {
        "text": reading.text,
        "confidence": _confidence(reading),
        "valid_format": reading.valid_format,
        "formats": reading.formats,
        "region": reading.region and reading.region._asdict(),
        "characters": [{"char": char, "confidence": confidence} for char, confidence in reading.characters],
        "candidates": [{"text": text, "confidence": confidence} for text, confidence in reading.candidates],
        "box": [(0, 0), (width, 0), (width, height), (0, height)] if found is None else _box(found),
        "found": None if found is None else found.probability,
        "rows": None if found is None else found.rows,
        "colour": None if found is None else found.colour,
        "cut": None if found is None else found.cut,
    }


def _box(found: Refined) -> list[tuple[float, float]]:
    """Corners to a tenth of a pixel."""
    return [(round(float(x), 1), round(float(y), 1)) for x, y in found.corners]
