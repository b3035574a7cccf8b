"""Kinds of plates as data: alphabets, texts, layouts and colours. A new country is a new entry in `PLATES`.

Sizes and positions in mm after GA 36-2018 (motor vehicle number plates of the People's Republic of China): 440 x 140
for ordinary plates, 480 x 140 for new-energy ones, 440 x 220 for two-row rear plates; characters 45 x 90.
The renderer draws these entries. `GRAMMAR` is derived from them; every manifest has it, for decoding.
"""

from collections.abc import Sequence
from typing import NamedTuple

from service.artifact import Format, Grammar

PROVINCES = "京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云藏陕甘青宁新"
SPECIAL = "港澳学警使领挂"
DIGITS = "0123456789"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # serials and city codes have no I and no O
POLICE_CITY = "O"  # the one place where the letter O occurs
SERIAL = DIGITS + LETTERS
ENERGY = "DABCEFGHJK"  # new-energy marks: D, A, B, C, E pure electric, F, G, H, J, K others

ALPHABET = PROVINCES + SPECIAL + DIGITS + "ABCDEFGHJKLMNOPQRSTUVWXYZ"


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

    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    ink: tuple[int, int, int]
    last: tuple[int, int, int] | None = None


class Plate(NamedTuple):
    """A kind of plate to draw.

    A template is one string of allowed characters for each position of the text. `slots` are the places of the
    positions, in reading order. `dot` is the centre of the separating dot. `share` is how often training draws this
    kind. `family` is the name of its texts in the grammar, where several kinds have the same texts: a text has no
    colour.
    """

    name: str
    width: float
    height: float
    slots: tuple[Slot, ...]
    templates: tuple[tuple[str, ...], ...]
    colours: tuple[Colours, ...]
    dot: tuple[float, float] | None
    share: float
    family: str = ""


_ROW = tuple(Slot(x, 25.0) for x in (15.5, 72.5, 151.5, 208.5, 265.5, 322.5, 379.5))
_GREEN_ROW = (
    Slot(15.5, 25.0),
    Slot(69.5, 25.0, 43.0),
    *(Slot(161.5 + 52.0 * i, 25.0, 43.0) for i in range(6)),
)
_TWO_ROWS = (
    Slot(110.0, 15.0, 80.0, 60.0),
    Slot(250.0, 15.0, 80.0, 60.0),
    *(Slot(27.5 + 80.0 * i, 90.0, 65.0, 110.0) for i in range(5)),
)
_DOT = (134.5, 70.0)

_WHITE, _BLACK, _RED = (245, 245, 245), (25, 25, 25), (35, 30, 200)
_BLUE = Colours((175, 70, 15), (175, 70, 15), _WHITE)
_BLUE_LIGHT = Colours((215, 120, 20), (215, 120, 20), _WHITE)
_YELLOW = Colours((20, 175, 240), (20, 175, 240), _BLACK)
_POLICE = Colours(_WHITE, _WHITE, _BLACK, _RED)
_BLACK_PLATE = Colours(_BLACK, _BLACK, _WHITE)
_GREEN = Colours((215, 230, 215), (125, 190, 60), _BLACK)  # small vehicles: white to green
_YELLOW_GREEN = Colours((110, 185, 70), (110, 185, 70), _BLACK)  # large vehicles: green, its first two on yellow

_STANDARD = "cn-standard"  # of seven characters: blue and yellow plates of one row and of two
_CIVIL = (PROVINCES, LETTERS, *(SERIAL,) * 5)


def _ending(last: str) -> tuple[str, ...]:
    return (PROVINCES, LETTERS, *(SERIAL,) * 4, last)


PLATES = (
    Plate("cn-blue", 440, 140, _ROW, (_CIVIL,), (_BLUE, _BLUE, _BLUE_LIGHT), _DOT, 0.58, _STANDARD),
    Plate("cn-yellow", 440, 140, _ROW, (_CIVIL,), (_YELLOW,), _DOT, 0.10, _STANDARD),
    Plate("cn-yellow-two-row", 440, 220, _TWO_ROWS, (_CIVIL,), (_YELLOW,), None, 0.02, _STANDARD),
    Plate(
        "cn-green",
        480,
        140,
        _GREEN_ROW,
        ((PROVINCES, LETTERS, ENERGY, SERIAL, *(DIGITS,) * 4), (PROVINCES, LETTERS, *(DIGITS,) * 5, ENERGY)),
        (_GREEN, _GREEN, _YELLOW_GREEN),
        None,
        0.13,
        "cn-new-energy",
    ),
    Plate(
        "cn-police",
        440,
        140,
        _ROW,
        (_ending("警"), (PROVINCES, POLICE_CITY, *(SERIAL,) * 5)),
        (_POLICE, _POLICE, _BLUE),
        _DOT,
        0.04,
    ),
    Plate("cn-learner", 440, 140, _ROW, (_ending("学"),), (_YELLOW,), _DOT, 0.03),
    Plate("cn-trailer", 440, 140, _ROW, (_ending("挂"),), (_YELLOW,), _DOT, 0.03),
    Plate("cn-hongkong-macau", 440, 140, _ROW, (("粤", "Z", *(SERIAL,) * 4, "港澳"),), (_BLACK_PLATE,), _DOT, 0.02),
    Plate("cn-consulate", 440, 140, _ROW, ((PROVINCES, LETTERS, *(DIGITS,) * 4, "领"),), (_BLACK_PLATE,), _DOT, 0.02),
    Plate(
        "cn-embassy",
        440,
        140,
        tuple(Slot(15.5 + 60.67 * i, 25.0) for i in range(7)),
        (("使", *(DIGITS,) * 6), (*(DIGITS,) * 6, "使")),
        (_BLACK_PLATE,),
        None,
        0.02,
    ),
)

# No real plate. A real one has one Chinese character, the hardest to read; this one trains seven at a time.
DRILL = Plate("drill", 440, 140, _ROW, ((PROVINCES + SPECIAL,) * 7,), (_BLUE, _YELLOW, _POLICE, _GREEN), None, 0.0)


def _families(plates: Sequence[Plate]) -> Grammar:
    """The families of texts, each once, with all templates of its kinds of plate."""
    templates: dict[str, dict[tuple[str, ...], None]] = {}
    for plate in plates:
        templates.setdefault(plate.family or plate.name, {}).update(dict.fromkeys(plate.templates))
    return Grammar(formats=tuple(Format(name=name, templates=tuple(found)) for name, found in templates.items()))


GRAMMAR = _families(PLATES)
