"""Patterns of plate texts: parsed, drawn at random, and turned into templates of the grammar.

A pattern is written as what stands on the plate, from left to right:

    A 7          a character that every such plate has
    [A-HJ-Z]     one of these characters
    <serial>     one of a named set of characters, or of words such as codes of districts
    {2} {1,3}    behind any of these, but not behind a slash or a set of words: so many of them, up to 99
    space        a gap
    - . :        a dash, a dot, two dots: drawn, and not read
    @            a seal, a coat of arms or stickers in the gap: drawn, and not read
    /            the end of the upper row
"""

import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

What = Literal["character", "gap", "mark", "seal", "row"]
Template = tuple[str, ...]

_SIGNS: Final[dict[str, What]] = {" ": "gap", "-": "mark", ".": "mark", ":": "mark", "@": "seal", "/": "row"}
_PIECE: Final = re.compile(r"(\[[^\]]+\]|<[^>]+>|[^\[\]<>{}])(?:\{(\d{1,2})(?:,(\d{1,2}))?\})?")
# Drawn more often than others, because they were mistaken for each other most often on real plates.
CONFUSED: Final = "皖桂赣藏陕鲁粤浙黑KMD0OQEF1ILB8"
_NARROWER: Final = 50  # times fewer texts
_MORE: Final = 0.12  # how often one of them is taken where a position allows several characters


class Piece(NamedTuple):
    """A part of a pattern: from `least` to `most` times one of the `allowed` characters, or a sign. Where it has
    `words`, it is one of them."""

    what: What
    allowed: str
    least: int = 1
    most: int = 1
    words: tuple[str, ...] = ()


class Item(NamedTuple):
    """One character or sign of a drawn text."""

    what: What
    symbol: str


def parse(pattern: str, sets: Mapping[str, str]) -> tuple[Piece, ...]:
    """The pieces of a pattern; `sets` are its named sets. Raises ValueError that names the pattern."""
    pieces, end = [], 0
    for match in _PIECE.finditer(pattern):
        if match.start() != end:
            break
        end = match.end()
        symbol, least, most = match.groups()
        try:
            pieces.append(_piece(symbol, int(least or 1), int(most or least or 1), sets))
        except ValueError as error:
            raise ValueError(f"pattern {pattern!r}: {match[0]}: {error}") from error
    if end != len(pattern) or not pieces:
        raise ValueError(f"pattern {pattern!r}: what begins at {pattern[end:]!r} is not understood")
    return tuple(pieces)


def _piece(symbol: str, least: int, most: int, sets: Mapping[str, str]) -> Piece:
    if not least <= most or not most:
        raise ValueError("a count is a whole number from 1 on, or goes from a lower one to a higher one")
    if symbol == "/" and (least, most) != (1, 1):
        raise ValueError("a row ends once")
    if symbol in _SIGNS:
        return Piece(_SIGNS[symbol], symbol, least, most)
    if symbol.startswith("<"):
        if symbol[1:-1] not in sets:
            raise ValueError(f"there is no set of characters {symbol}: define it in [sets]")
        characters = sets[symbol[1:-1]].strip()
        words = tuple(characters.split())
        if len(words) > 1:
            return _choice(words, least, most)
        symbol = f"[{characters}]"
    allowed = _expanded(symbol[1:-1]) if symbol.startswith("[") else symbol
    return Piece("character", allowed, least, most)


def _choice(words: tuple[str, ...], least: int, most: int) -> Piece:
    """One of some words."""
    if ranged := [word for word in words if "-" in word]:
        raise ValueError(f"{ranged[0]!r} is no word: a set of characters with ranges has no spaces")
    if (least, most) != (1, 1):
        raise ValueError("a set of words has no count: name it once more")
    lengths = [len(word) for word in words]
    return Piece("character", "".join(sorted({*"".join(words)})), min(lengths), max(lengths), words)


def _expanded(characters: str) -> str:
    """The characters of a class, with ranges such as A-F written out."""

    def written_out(match: re.Match[str]) -> str:
        first, last = match.groups()
        if last < first:
            raise ValueError(f"the range {match[0]} goes backwards: write {last}-{first}")
        return "".join(map(chr, range(ord(first), ord(last) + 1)))

    if not characters:
        raise ValueError("the set has no characters")
    return re.sub(r"(.)-(.)", written_out, characters)


def templates(pieces: tuple[Piece, ...], reads: Mapping[str, str]) -> Iterator[tuple[Template, float]]:
    """The allowed characters of each position, for each form that the pattern has, and how often it is drawn.

    `reads` tells what some characters are read as, such as Ä as A.
    """
    for parts in itertools.product(*(_forms(piece) for piece in pieces if piece.what == "character")):
        template = tuple(
            "".join(sorted({reads.get(letter, letter) for letter in allowed})) for part, _ in parts for allowed in part
        )
        yield template, math.prod(share for _, share in parts)


def _forms(piece: Piece) -> list[tuple[Template, float]]:
    """The allowed characters of each position, for each form that a piece may have, and its share. Words that begin
    alike are one form."""
    if not piece.words:
        counts = range(piece.least, piece.most + 1)
        return [((piece.allowed,) * count, 1 / len(counts)) for count in counts]
    lasts: dict[str, str] = {}
    for word in piece.words:
        lasts[word[:-1]] = lasts.get(word[:-1], "") + word[-1]
    return [((*begin, last), len(last) / len(piece.words)) for begin, last in lasts.items()]


def fewest(found: Iterable[Template]) -> tuple[Template, ...]:
    """Fewer templates that allow the same texts: what another allows is left out, and those that differ in one position
    become one.

    What is `_NARROWER` than any other that allows it stays: it tells that these texts are more frequent than others.
    """
    templates, before = list(dict.fromkeys(found)), 0
    while len(templates) != before:
        templates = _uncovered(templates)
        before = len(templates)
        for place in range(max(map(len, templates), default=0)):
            templates = _merged(templates, place)
    return tuple(templates)


def _uncovered(templates: Sequence[Template]) -> list[Template]:
    """Those that no other covers. Of their length, those with fewer texts are compared with those with more."""
    found: list[Template] = []
    for _, group in itertools.groupby(sorted(templates, key=len), key=len):
        larger: list[tuple[Template, list[frozenset[str]], int]] = []
        for template in sorted(group, key=_count, reverse=True):
            sets, count = [frozenset(allowed) for allowed in template], _count(template)
            wider = (wide for _, wide, most in larger if most < _NARROWER * count)
            if not any(all(map(frozenset.issubset, sets, wide)) for wide in wider):
                larger.append((template, sets, count))
        found += [template for template, _, _ in larger]
    return found


def _merged(templates: Sequence[Template], place: int) -> list[Template]:
    """Those that differ at this place alone as one, but for one that allows another, and many more."""
    groups: dict[tuple[Template, ...], list[frozenset[str]]] = {}
    for template in templates:
        here, allowed = template[place : place + 1], frozenset("".join(template[place : place + 1]))
        unions = groups.setdefault((template[:place], template[place + 1 :]) if here else (template,), [])
        for number, union in enumerate(unions):
            if not (union <= allowed or allowed <= union):
                unions[number] = union | allowed
                break
        else:
            unions.append(allowed)
    found: list[Template] = []
    for parts, unions in groups.items():
        if len(parts) == 1:
            found += parts
        else:
            found += [(*parts[0], "".join(sorted(union)), *parts[1]) for union in unions]
    return found


def weights(merged: Sequence[Template], found: Iterable[tuple[Template, float]]) -> tuple[float, ...]:
    """How frequent the texts of each of the `merged` templates are, if those of the templates that were `found` are as
    frequent as stands beside them: each counts for the narrowest that allows its texts. They add up to 1; where all are
    never drawn, there are none."""
    sums = [0.0] * len(merged)
    for template, share in found:
        allowing = [place for place, wide in enumerate(merged) if _allows(wide, template)]
        sums[min(allowing, key=lambda place: _count(merged[place]))] += share
    return tuple(each / sum(sums) for each in sums) if any(sums) else ()


def _allows(wide: Template, narrow: Template) -> bool:
    """Whether one template allows all texts of another."""
    return len(wide) == len(narrow) and all(set(b) <= set(a) for a, b in zip(wide, narrow, strict=True))


def _count(template: Template) -> int:
    """How many texts a template allows."""
    return math.prod(map(len, template))


def draw(rng: random.Random, pieces: tuple[Piece, ...]) -> tuple[Item, ...]:
    """A text of the pattern. As in real serials, digits outnumber letters and repeats are frequent."""
    letters = rng.choice((0.1, 0.3, 0.6))
    items: list[Item] = []
    before = ""
    for piece in pieces:
        if piece.words:
            items += [Item("character", before := letter) for letter in rng.choice(piece.words)]
            continue
        for _ in range(rng.randint(piece.least, piece.most)):
            if piece.what == "character":
                before = _character(rng, piece.allowed, before, letters)
                items.append(Item("character", before))
            else:
                items.append(Item(piece.what, piece.allowed))
    return tuple(items)


def _character(rng: random.Random, allowed: str, before: str, letters: float) -> str:
    if len(allowed) == 1:
        return allowed
    if before and before in allowed and rng.random() < 0.12:
        return before
    confused = [character for character in allowed if character in CONFUSED]
    if confused and rng.random() < _MORE:
        return rng.choice(confused)
    digits = [character for character in allowed if character.isdigit()]
    if digits and len(digits) < len(allowed) and rng.random() > letters:
        return rng.choice(digits)
    return rng.choice(allowed)
