"""Grammar of plates as data: the families of texts that a model knows, and the kinds of plate that have them, as a
manifest holds them."""

import math
from collections.abc import Collection
from functools import cached_property
from typing import Annotated, Final, NamedTuple, Self

from pydantic import Field, model_validator

from service.artifact.types import Frozen, Label

# How probable it is that a plate seems to have other rows, another colour or shape than its kind has, as in bad light.
MISJUDGED: Final = 0.03
# How far off a shape is seen: standard deviation of the logarithm of width by height. A plate that is seen from a side
# looks narrower; in rendered scenes it is 0.10 of true corners, and those that are seen are not exact.
SPREAD: Final = 0.12
UNLIKE: Final = 3.0  # in SPREADs: so far off, a plate does not look like one of a kind
UNKNOWN: Final = 0.05  # how probable any looks are of a text that fits no format, as `Kind.likelihood` counts
ANY: Final = math.log(7 / 0.7)  # logarithms of widths in heights that a misjudged plate may seem to have


class Looks(NamedTuple):
    """What was seen of a plate beside its text: 1 or 2 rows, its colour, and its width in heights, if all of it was
    seen."""

    rows: int
    colour: str
    aspect: float | None = None


class Region(NamedTuple):
    """A country, by its code of ISO 3166 in small letters, and the probability that a plate is of it."""

    code: str
    probability: float


class Kind(Frozen):
    """A kind of plate: the country that has it, or none; its rows, the names of its colours, a frequent one several
    times, the share that it has of the country's plates, and its least and most width in heights, which older models do
    not tell."""

    name: Label
    region: Annotated[str, Field(pattern="^([a-z]{2})?$")] = ""
    rows: Annotated[int, Field(ge=1, le=2)]
    colours: Annotated[tuple[Label, ...], Field(min_length=1)]
    share: Annotated[float, Field(gt=0, le=1)]
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None

    def is_like(self, looks: Looks) -> bool:
        """Whether a plate of this kind can look so."""
        return looks.rows == self.rows and looks.colour in self.colours and self._off(looks.aspect) <= UNLIKE

    def likelihood(self, looks: Looks | None) -> float:
        """How probable it is that a plate of this kind looks so, in comparison with other kinds; 1 where nothing was
        seen."""
        if looks is None:
            return 1.0
        rows = 1.0 if looks.rows == self.rows else MISJUDGED
        colour = self.colours.count(looks.colour) / len(self.colours) or MISJUDGED
        return rows * colour * self._shape(looks.aspect)

    def _off(self, aspect: float | None) -> float:
        """How far a shape is from those of this kind, in SPREADs; 0 where it is unknown."""
        if aspect is None or self.aspect is None:
            return 0.0
        least, most = self.aspect
        return max(math.log(least / aspect), math.log(aspect / most), 0.0) / SPREAD

    def _shape(self, aspect: float | None) -> float:
        """The density of a shape, in comparison with that of a kind of a single shape at its own; 1 where it is
        unknown. The logarithms of the shapes of a kind are taken to be equally frequent, and to be seen with an error
        that is normally distributed."""
        if aspect is None or self.aspect is None:
            return 1.0
        least, most = self.aspect
        single = SPREAD * math.sqrt(math.tau)
        near = math.exp(-(self._off(aspect) ** 2) / 2) * single / (single + math.log(most / least))
        return (1 - MISJUDGED) * near + MISJUDGED * single / ANY


class Format(Frozen):
    """A family of texts, named after what the text alone tells. A template holds, for each position, the characters
    allowed there; `weights` are the shares of the texts that are of each template. `kinds` are the kinds of plate with
    such texts. Older models have neither: then all templates are equally frequent."""

    name: Label
    templates: Annotated[tuple[tuple[Annotated[str, Field(min_length=1)], ...], ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    kinds: tuple[Kind, ...] = ()

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights and len(self.weights) != len(self.templates):
            raise ValueError(f"{self.name} has {len(self.templates)} templates and {len(self.weights)} weights")
        return self

    def fits(self, text: str) -> bool:
        """Whether `text` matches one of the templates, position by position."""
        return any(_fits(text, template) for template in self.templates)

    def likelihood(self, text: str) -> float:
        """The probability of a text among those of this format, if all texts of one template are equally frequent."""
        weights = self.weights or (1 / len(self.templates),) * len(self.templates)
        each = zip(self.templates, weights, strict=True)
        return sum(weight / math.prod(map(len, template)) for template, weight in each if _fits(text, template))

    @cached_property
    def regions(self) -> frozenset[str]:
        """Codes of the countries that have such plates; of an older model, the one that the name begins with."""
        first, _, rest = self.name.partition("-")
        older = {first} if rest and len(first) == 2 else set()
        return frozenset({kind.region for kind in self.kinds if kind.region} if self.kinds else older)


class Grammar(Frozen):
    """The families of texts that a model knows. A text may fit several."""

    formats: tuple[Format, ...]

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Codes of all countries, sorted."""
        return tuple(sorted({region for format in self.formats for region in format.regions}))

    def formats_of(self, text: str) -> tuple[str, ...]:
        """Names of the formats that `text` fits, in their order."""
        return tuple([format.name for format in self.formats if format.fits(text)])

    def only(self, names: Collection[str]) -> "Grammar":
        """The grammar of the formats of these names alone; those that it does not know are left out."""
        return Grammar(formats=tuple(format for format in self.formats if format.name in names))

    def within(self, regions: Collection[str]) -> "Grammar":
        """The grammar of the kinds of these countries alone."""
        return Grammar(
            formats=tuple(
                format.model_copy(update={"kinds": tuple(kind for kind in format.kinds if kind.region in regions)})
                for format in self.formats
                if not format.regions.isdisjoint(regions)
            )
        )

    def looking(self, names: Collection[str], looks: Looks) -> tuple[str, ...]:
        """Of the formats of these names those that have a kind that looks so; all of them where none has."""
        like = {format.name for format in self.formats for kind in format.kinds if kind.is_like(looks)}
        return tuple([name for name in names if name in like]) or tuple(names)

    def region(self, text: str, looks: Looks | None, names: Collection[str]) -> Region | None:
        """The country that a plate is most probably of, by Bayes' rule; its text fits the formats of these names.

        Before anything is seen, all countries are equally probable, and so are plates of none of them, where formats
        have such kinds. None where these are the most probable, or no kind has such a text.
        """
        found = self._frequencies(text, looks, names)
        code = max(found, key=found.__getitem__, default="")
        return Region(code, found[code] / sum(found.values())) if code else None

    def frequency(self, text: str, looks: Looks | None = None) -> float:
        """How frequent plates with this text are, or those of them that look so, in comparison with other texts, if
        there are equally many plates of each country."""
        return sum(self._frequencies(text, looks, self.formats_of(text)).values())

    def likelihood(self, looks: Looks, text: str) -> float:
        """How probable it is that a plate with this text looks so, in comparison with other texts."""
        every = self.frequency(text)
        return self.frequency(text, looks) / every if every else UNKNOWN

    def _frequencies(self, text: str, looks: Looks | None, names: Collection[str]) -> dict[str, float]:
        """That of each country, by its code; "" are plates of none. The text fits the formats of these names."""
        found: dict[str, float] = {}
        for format in self.formats:
            if format.name in names:
                likely = format.likelihood(text)
                shares = [(kind.region, kind.share * kind.likelihood(looks)) for kind in format.kinds]
                for region, share in shares or [(region, 1.0) for region in format.regions]:
                    found[region] = found.get(region, 0.0) + share * likely
        return found


def _fits(text: str, template: tuple[str, ...]) -> bool:
    return len(text) == len(template) and all(char in allowed for char, allowed in zip(text, template, strict=True))
