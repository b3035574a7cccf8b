"""The part of the report about the networks that find plates, in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from model_builder.measure.blocks import table

Facts = Mapping[str, Any]  # of one task, as `finders.measure` returns them

_FOUND: Final = (
    "The share of plates that are found (overlap of at least 0.5), the median over these of a corner's largest error "
    "in widths of the plate, and false alarms an image: finder and refiner together, through the serving code. Each "
    "engine replaces the finder alone. Rendered scenes hold plates of the world, and far smaller ones than the other "
    "sets, which are photographs that no training saw."
)
_REFINED: Final = (
    "The refiner alone, on rendered crops around what may be a plate: the share that it rightly tells to be a plate or "
    "none, and the median over plates of a corner's largest error in widths of the plate."
)
_SPEED: Final = (
    "Median milliseconds an image on one thread. Beside them: the share of the time of the fastest other engine, all "
    "with the same weights and in turns, each in its own process with denormals flushed. OpenVINO has a network "
    "compiled for each size, ONNX Runtime one for all."
)


def sections(found: Mapping[str, Facts]) -> list[str]:
    """Paragraphs and tables, none where nothing was measured."""
    parts = []
    if found:
        parts += ["## How well, and how fast, are plates found?"]
    if finder := found.get("find"):
        parts += [_FOUND, figures(finder), _SPEED, speeds(finder)]
    if refiner := found.get("refine"):
        parts += [_REFINED, figures(refiner), "Its times, measured alike:", speeds(refiner)]
    return parts


def figures(facts: Facts) -> str:
    """A row for each contestant, the fastest first: what it finds in each set."""
    names, found = _by_speed(facts), facts["figures"]
    sets = found[names[0]]
    alarms = any(figure["false_alarms"] is not None for figure in sets.values())
    right = "found" if alarms else "right"
    head = [""]
    for name, figure in sets.items():
        head += [f"{name} ({figure['total']}): {right}", "corners", *["false alarms"] * alarms]
    return table(head, [[_shown(facts, name), *_cells(found[name])] for name in names])


def speeds(facts: Facts) -> str:
    """A row for each contestant, the fastest first: its time for each size and batch, its file and engine."""
    settings = [(time["size"], time["batch"]) for time in facts["times"][_by_speed(facts)[0]]]
    head = [""]
    for size, batch in settings:
        head += [f"{size}, ms" + f", batch {batch}" * (batch > 1), "of the fastest other"]
    rows = []
    for name in _by_speed(facts):
        cells = [_shown(facts, name)]
        for place, time in enumerate(facts["times"][name]):
            others = [taken[place]["median"] for who, taken in facts["times"].items() if who not in facts["ours"]]
            cells += [f"{time['median']:.2f}", f"{time['median'] / min(others):.2f}" if others else ""]
        rows.append([*cells, f"{facts['bytes'][name] / 1e6:.2f}", facts["engine"][name]])
    return table([*head, "file, MB", "engine"], rows)


def _cells(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for figure in sets.values():
        yield f"{100 * figure['exact'] / figure['total']:.1f} %"
        yield "" if figure["corners"] is None else f"{figure['corners']:.3f}"
        if figure["false_alarms"] is not None:
            yield f"{figure['false_alarms']:.3f}"


def _shown(facts: Facts, name: str) -> str:
    return f"`{name}`" if name in facts["ours"] else name


def _by_speed(facts: Facts) -> Sequence[str]:
    return sorted(facts["times"], key=lambda name: facts["times"][name][0]["median"])
