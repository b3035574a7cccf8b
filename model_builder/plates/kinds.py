"""Kinds of plates as data: each file in `countries/` holds those of a country, and docs/countries.md tells how to write
one. The renderer draws these kinds. `GRAMMAR` is derived from them; every manifest has it, for decoding.
"""

import itertools
import math
import random
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_builder.plates import MAX_CHARACTERS, glyphs, patterns
from model_builder.plates.patterns import Item, Piece, Template
from service.artifact import Format, Grammar, Kind

COUNTRIES: Final = Path(__file__).parent / "countries"

PROVINCES: Final = "京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云藏陕甘青宁新"
SPECIAL: Final = "港澳学警使领挂"
DIGITS: Final = "0123456789"
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ALPHABET: Final = PROVINCES + SPECIAL + DIGITS + LETTERS

Colour = tuple[int, int, int]
# BGR 0..255. The Chinese ones are those of GA 36-2018 as photographs show them.
PALETTE: Final[dict[str, Colour]] = {
    "white": (245, 245, 245),
    "black": (25, 25, 25),
    "red": (35, 30, 200),
    "blue": (175, 70, 15),
    "light-blue": (215, 120, 20),
    "yellow": (20, 175, 240),
    "pale-green": (215, 230, 215),
    "energy-green": (125, 190, 60),
    "dull-green": (110, 185, 70),
    "euro-blue": (150, 55, 10),
    "gold": (60, 205, 250),
    "green": (60, 110, 20),
    "grey": (185, 185, 185),
    "silver": (205, 205, 200),
    "cream": (205, 235, 245),
    "sky": (240, 215, 175),
    "orange": (25, 120, 235),
    "peach": (190, 215, 250),
    "navy": (95, 35, 20),
    "maroon": (40, 20, 110),
    "brown": (35, 55, 90),
    "violet": (120, 45, 90),
    "pink": (200, 190, 245),
}


# What a refiner calls papers of these colours; any other paper is "other".
_LOOKS: Final[dict[str, tuple[str, ...]]] = {
    "white": ("white",),
    "silver": ("white", "other"),
    "grey": ("other", "white"),
    "cream": ("white", "other"),
    "black": ("black",),
    "red": ("red",),
    "maroon": ("red", "other"),
    "blue": ("blue",),
    "light-blue": ("blue",),
    "navy": ("blue", "black"),
    "sky": ("other", "blue", "white"),
    "yellow": ("yellow",),
    "gold": ("yellow",),
    "pale-green": ("green",),
    "energy-green": ("green",),
    "dull-green": ("green",),
    "green": ("green",),
    "peach": ("other", "white"),
}


class Slot(NamedTuple):
    """Where one character stands: left, top, width and height in mm on the plate."""

    x: float
    y: float
    width: float = 45.0
    height: float = 90.0


class Colours(NamedTuple):
    """Colours of a plate as BGR 0..255.

    `top` and `bottom` are the background, which differs on new-energy plates; `ink` is that of the characters; `last`
    is that of a last character in another colour, such as the red one of police plates.
    """

    top: Colour
    bottom: Colour
    ink: Colour
    last: Colour | None = None


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Named = Annotated[str, Field(pattern="^(" + "|".join((*PALETTE, "ink", "any")) + ")$")]
Share = Annotated[float, Field(ge=0, le=1e6)]  # how often, beside other shares
Chance = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=5, le=2000)]  # mm
Position = Annotated[float, Field(ge=0, le=2000)]  # mm from the left or the top
Widths = Annotated[float, Field(ge=0, le=2)]  # widths of a character
Name = Annotated[str, Field(pattern="^[a-z0-9-]+$")]
Text = Annotated[str, Field(pattern=r"\S")]
Letter = Annotated[str, Field(min_length=1, max_length=1)]
_Seal = Literal[
    "discs",
    "shield",
    "outline",
    "picture",
    "sticker",
    "emblem",
    "figure",
    "stack",
    "wheelchair",
    "bars",
    "logo",
    "none",
]


class Band(_Data):
    """A band along a side, `size` mm wide, with an emblem above and letters below, which are not read.

    `letters` are patterns.
    """

    side: Literal["left", "right", "top", "bottom"] = "left"
    size: Length = 42
    colour: Named = "euro-blue"
    ink: Named = "white"
    letters: tuple[str, ...] = ()
    emblem: Annotated[tuple[Literal["stars", "flag", "coat", "none"], ...], Field(min_length=1)] = ("none",)
    chance: Chance = 1


class Words(_Data):
    """A line of lettering that is not read, `height` mm high, above or below the number; one of `texts`."""

    texts: Annotated[tuple[Text, ...], Field(min_length=1)]
    place: Literal["top", "bottom", "side"] = "top"
    height: Length = 16
    colour: Named = "any"
    chance: Chance = 1


class _Kind(_Data):
    name: Name
    size: tuple[Length, Length]
    tolerance: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    texts: Annotated[tuple[str, ...], Field(min_length=1)]
    colours: Annotated[tuple[str, ...], Field(min_length=1)]
    share: Share = 1
    family: Name | Literal[""] = ""
    slots: str = ""
    dot: tuple[Position, Position] | None = None
    characters: Annotated[tuple[tuple[Length, Length], ...], Field(max_length=2)] = ()
    space: Widths = 0.2
    gap: Widths = 0.55
    faces: Annotated[tuple[str, ...], Field(min_length=1)] = ("plain",)
    bands: tuple[Band, ...] = ()
    words: tuple[Words, ...] = ()
    seals: Annotated[tuple[_Seal, ...], Field(min_length=1)] = ("discs",)
    pictures: Chance = 0
    stickers: Annotated[int, Field(ge=0, le=20)] = 0
    frame: Chance = 0.85


_Box = tuple[Position, Position, Length, Length]


class _Country(_Data):
    region: Annotated[str, Field(pattern="^[a-z]{2}$|^$")] = ""
    share: Share
    sets: dict[str, str] = {}
    reads: dict[Letter, Letter] = {}
    slots: dict[str, tuple[tuple[Position, Position] | tuple[Position, Position, Length] | _Box, ...]] = {}
    kind: Annotated[tuple[_Kind, ...], Field(min_length=1)]


class Plate(NamedTuple):
    """A kind of plate to draw.

    Sizes are in mm. `texts` are the patterns of its texts, and `reads` tells what some characters are read as. A kind
    has `slots`, the places of the characters in reading order, with `dot` as the centre of the separating dot; or
    `characters`, the width and height of a character in each row, which the renderer sets side by side with a `space`
    between and a `gap` where the pattern has one, both in widths of a character. `share` is how often training draws
    this kind among those of its country, and `country_share` how often it draws one of these. `family` is the name of
    its texts in the grammar, where several kinds have the same texts: a text has no colour.
    """

    name: str
    region: str
    width: float
    height: float
    texts: tuple[tuple[Piece, ...], ...]
    colours: tuple[Colours, ...]
    share: float
    country_share: float = 1.0
    family: str = ""
    tolerance: float = 0.0
    reads: tuple[tuple[str, str], ...] = ()
    slots: tuple[Slot, ...] = ()
    dot: tuple[float, float] | None = None
    characters: tuple[tuple[float, float], ...] = ()
    space: float = 0.2
    gap: float = 0.55
    faces: tuple[str, ...] = ("plain",)
    bands: tuple[Band, ...] = ()
    words: tuple[Words, ...] = ()
    seals: tuple[str, ...] = ("discs",)
    pictures: float = 0.0
    stickers: int = 0
    frame: float = 0.85

    @property
    def rows(self) -> int:
        """1 or 2."""
        return 2 if len(self.characters) == 2 or len({slot.y for slot in self.slots}) == 2 else 1

    @property
    def templates(self) -> dict[Template, float]:
        """For each form of a text, the allowed characters of each position, and how often it is drawn."""
        found: dict[Template, float] = {}
        for text in self.texts:
            for template, share in patterns.templates(text, dict(self.reads)):
                found[template] = found.get(template, 0.0) + share / len(self.texts)
        return found

    def draw(self, rng: random.Random) -> tuple[Item, ...]:
        """A text with its gaps, marks and seals."""
        return patterns.draw(rng, rng.choice(self.texts))

    def read(self, items: Iterable[Item]) -> str:
        """What a drawn text is read as."""
        reads = dict(self.reads)
        return "".join([reads.get(item.symbol, item.symbol) for item in items if item.what == "character"])


class _SameName(ValueError):
    """Two kinds have the same name."""


def load(path: Path) -> tuple[Plate, ...]:
    """The kinds of a country's file. Raises ValueError that names the file and what is wrong in it."""
    try:
        country = _Country.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        if not any(kind.share for kind in country.kind):
            raise ValueError("the share of every kind is 0: one of them has to be drawn")
        return _each_once([_plate(country, kind) for kind in country.kind])
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{path}: {where}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _each_once(plates: Iterable[Plate]) -> tuple[Plate, ...]:
    """The same plates. Raises _SameName where two have the same name."""
    plates = tuple(plates)
    for name, count in Counter(plate.name for plate in plates).items():
        if count > 1:
            raise _SameName(f"two kinds are called {name}")
    return plates


def _plate(country: _Country, kind: _Kind) -> Plate:
    """Raises ValueError that begins with the name of the kind."""
    try:
        plate = _made(country, kind)
        _check(plate)
    except ValueError as error:
        raise ValueError(f"{kind.name}: {error}") from error
    return plate


def _made(country: _Country, kind: _Kind) -> Plate:
    if bool(kind.slots) == bool(kind.characters):
        raise ValueError("it needs either slots or characters")
    if kind.slots and kind.slots not in country.slots:
        raise ValueError(f"there are no [slots] called {kind.slots!r}")
    texts = tuple(patterns.parse(text, country.sets) for text in kind.texts)
    fields: dict[str, Any] = {name: getattr(kind, name) for name in _Kind.model_fields if name in Plate._fields}
    fields |= {
        "region": country.region,
        "width": kind.size[0],
        "height": kind.size[1],
        "texts": texts,
        "colours": tuple(map(_colours, kind.colours)),
        "share": kind.share / sum(each.share for each in country.kind),
        "country_share": country.share,
        "reads": tuple(country.reads.items()),
        "slots": tuple(Slot(*slot) for slot in country.slots.get(kind.slots, ())),
    }
    return Plate(**fields)


def _check(plate: Plate) -> None:
    """Raises ValueError where the plate can't be drawn or read."""
    for face in plate.faces:
        glyphs.face(face)
    for letters in [letters for band in plate.bands for letters in band.letters]:
        if not sum(piece.least for piece in patterns.parse(letters, {}) if piece.what == "character"):
            raise ValueError(f"the letters {letters!r} of a band may be none: leave them out instead")
    _check_texts(plate)
    _check_places(plate)
    for letter in sorted({letter for text in plate.texts for piece in text for letter in _letters(piece)}):
        if letter not in glyphs.load():
            raise ValueError(f"no glyph draws {letter!r}: add its strokes to a file of model_builder/plates/glyphs")
    for letter in sorted({letter for template in plate.templates for allowed in template for letter in allowed}):
        if letter not in ALPHABET:
            raise ValueError(f"{letter!r} is not in the alphabet: name the character that it is read as in [reads]")


def _check_texts(plate: Plate) -> None:
    """Raises ValueError for a text that is too long to be read, or that the places of the plate don't fit."""
    for text in plate.texts:
        rows = [list(row) for ends, row in itertools.groupby(text, lambda piece: piece.what == "row") if not ends]
        ends = sum(piece.what == "row" for piece in text)
        least = [sum(piece.least for piece in row if piece.what == "character") for row in rows]
        most = sum(piece.most for piece in text if piece.what == "character")
        if most > MAX_CHARACTERS:
            raise ValueError(f"a text of up to {most} characters is too long: it has at most {MAX_CHARACTERS}")
        if len(rows) != ends + 1 or not all(least):
            raise ValueError("a text has a row that may be without a character")
        if plate.characters and len(rows) != len(plate.characters):
            raise ValueError(f"it has {len(plate.characters)} rows of characters and a text of {len(rows)}")
        if plate.slots and {sum(least), most} != {len(plate.slots)}:
            counts = f"{most}" if sum(least) == most else f"{sum(least)} to {most}"
            raise ValueError(f"it has {len(plate.slots)} slots and a text of {counts} characters")


def _check_places(plate: Plate) -> None:
    """Raises ValueError where the number has no place on the plate."""
    if len({slot.y for slot in plate.slots}) > 2:
        raise ValueError("its slots have more than two tops: a plate has one row or two")
    for slot in plate.slots:
        if slot.x + slot.width > plate.width or slot.y + slot.height > plate.height:
            raise ValueError(f"the slot at {slot.x:g}, {slot.y:g} ends outside of the plate")
    if any(wide > plate.width or high > plate.height for wide, high in plate.characters):
        raise ValueError("its characters are larger than the plate")
    # What the renderer takes from the plate, where each is as large as it may be drawn.
    across = sum(1.12 * band.size for band in plate.bands if band.side in ("left", "right"))
    down = sum(1.12 * band.size for band in plate.bands if band.side in ("top", "bottom"))
    down += sum(1.15 * 1.25 * words.height for words in plate.words)
    for name, size, taken in (("width", plate.width, across), ("height", plate.height, down)):
        if size * (1 - plate.tolerance) - taken < size / 10:
            raise ValueError(f"its bands and words leave less than a tenth of its {name} to the number")


def _letters(piece: Piece) -> str:
    return piece.allowed if piece.what == "character" else ""


def _colours(text: str) -> Colours:
    """Colours such as "black on white", "black on white to green", "black on white, last red"."""
    ink, _, rest = text.partition(" on ")
    papers, _, last = rest.partition(", last ")
    top, _, bottom = papers.partition(" to ")
    names = [ink, top, bottom or top, *([last] if last else [])]
    if unknown := [name for name in names if name not in PALETTE]:
        raise ValueError(f"no colour is called {unknown[0]!r} in {text!r}; there are {', '.join(PALETTE)}")
    return Colours(PALETTE[names[1]], PALETTE[names[2]], PALETTE[ink], PALETTE[last] if last else None)


def load_all(folder: Path = COUNTRIES) -> tuple[Plate, ...]:
    """The kinds of all files of a folder. Raises ValueError."""
    plates = tuple(plate for path in sorted(folder.glob("*.toml")) for plate in load(path))
    try:
        return _each_once(plates)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


PLATES: Final = load_all()
CHINA: Final = tuple(plate for plate in PLATES if plate.region == "cn")
# No real plate. A real one has one Chinese character, the hardest to read; this one trains seven at a time.
DRILL: Final = next(plate for plate in CHINA if plate.name == "cn-blue")._replace(
    name="drill",
    texts=((Piece("character", PROVINCES + SPECIAL, 7, 7),),),
    colours=tuple(dict.fromkeys(colours for plate in CHINA for colours in plate.colours)),
    dot=None,
    share=0.0,
)


def beside(paths: Iterable[Path]) -> tuple[Plate, ...]:
    """All kinds, and those of further countries' files. Raises ValueError, also where two have the same name."""
    plates = PLATES
    for path in paths:
        try:
            plates = _each_once([*plates, *load(path)])
        except _SameName as error:
            raise ValueError(f"{path}: {error}, with those that are there already") from error
    return plates


def shares(plates: Sequence[Plate]) -> list[float]:
    """How often training draws each of the kinds."""
    return [plate.share * plate.country_share for plate in plates]


def grammar(plates: Sequence[Plate]) -> Grammar:
    """The families of texts, each once, with as few templates as allow the texts of its kinds of plate."""
    found: dict[str, list[Plate]] = {}
    for plate in plates:
        found.setdefault(plate.family or plate.name, []).append(plate)
    return Grammar(formats=tuple(_format(name, kinds) for name, kinds in found.items()))


def _format(name: str, plates: Sequence[Plate]) -> Format:
    templates = patterns.fewest(template for plate in plates for template in plate.templates)
    drawn = [(template, plate.share * share) for plate in plates for template, share in plate.templates.items()]
    weights = tuple(round(weight, 6) for weight in patterns.weights(templates, drawn))
    kinds = tuple(_kind(plate) for plate in plates if plate.share)
    return Format(name=name, templates=templates, weights=weights, kinds=kinds)


def _kind(plate: Plate) -> Kind:
    aspect, spread = plate.width / plate.height, plate.tolerance
    return Kind(
        name=plate.name,
        region=plate.region,
        rows=plate.rows,
        colours=_seen(plate),
        share=plate.share,
        aspect=(round(aspect * (1 - spread) / (1 + spread), 3), round(aspect * (1 + spread) / (1 - spread), 3)),
    )


def _seen(plate: Plate) -> tuple[str, ...]:
    """The names by which a refiner may call the colours of a kind, each as often as it may in comparison."""
    papers = [name for colours in plate.colours for name, colour in PALETTE.items() if colour in colours[:2]]
    counts = Counter(seen for paper in papers for seen in _LOOKS.get(paper, ("other",)))
    least = math.gcd(*counts.values())
    return tuple(name for name, count in counts.items() for _ in range(count // least))


GRAMMAR: Final = grammar(PLATES)


def named(name: str) -> tuple[Plate, ...]:
    """The kind called so, the kinds of a region, or those of a country's file at this path. Raises ValueError."""
    if name.endswith(".toml"):
        return load(Path(name))
    found = tuple(plate for plate in PLATES if name in (plate.name, plate.region))
    if not found:
        raise ValueError(f"no kind is called {name!r}; there are {', '.join(plate.name for plate in PLATES)}")
    return found
