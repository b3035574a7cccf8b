"""Fusion: one text of the readings of a plate in several frames.

A reading gives its most probable texts with their probabilities. So it gives, for each length and position, the
probability of each character; what its texts leave open is spread over all characters. The logarithms of several
readings are added, weighted by the readings' confidence. Frames that follow each other show the same dirt and the same
light. So all of them together count as many readings as the sum of their confidences, from 1 to INDEPENDENT. The most
probable texts of each length are found by a search over all positions together. Lengths and texts are weighed
together, with the prior of the grammar (`reading.text`).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from service.artifact import Grammar
from service.reading.prior import OTHER
from service.reading.text import Candidate, Character, Reading

INDEPENDENT: Final = 3.0  # readings that all frames together count for, at most
OPEN: Final = 0.01  # probability, at least, that the text is none of a reading's
CHARACTERS: Final = 40  # among which that is spread
BEAM, TEXTS = 40, 12  # texts that the search keeps from position to position, and at the end
GIVEN: Final = 5  # candidates of a fused reading
TWINS: Final = ("0O", "1I")  # that many plates draw alike: whoever writes a list may have meant the other
ALIKE: Final = ("0OQD", "1ILT", "8B", "2Z", "5S", "6G", "UV", "4A", "7T", "MN")  # that are confused
CONFUSED: Final = 0.05  # probability of one character of ALIKE where another one was read

Position = dict[str, float]  # characters and their probabilities


class Weighed(NamedTuple):
    """A reading of one frame, and its weight against those of other frames."""

    reading: Reading
    weight: float


@dataclass(frozen=True)
class Fused:
    """What all frames together say; `candidates` are sorted, the first is `text`."""

    text: str
    confidence: float
    formats: tuple[str, ...]
    characters: tuple[Character, ...]
    candidates: tuple[Candidate, ...]
    positions: tuple[Position, ...]
    grammar: Grammar
    length_share: float
    evidence: float  # that the probabilities of texts are shares of

    def probability(self, text: str) -> float:
        """The probability that the plate has exactly this text, as someone may have written it down.

        Characters that are drawn alike count as the same, those that are easily confused a little.
        """
        if len(text) != len(self.positions) or not text:
            return 0.0
        score = math.prod(_confused(position, char) for position, char in zip(self.positions, text, strict=True))
        score *= self.length_share
        return score / max(self.evidence, score) if score else 0.0


def fuse(readings: Sequence[Weighed], grammar: Grammar) -> Fused | None:
    """One text of all readings; None where none of them has a text."""
    given = [one for one in readings if one.reading.text]
    if not given:
        return None
    total = sum(one.weight for one in given) or 1.0
    looks = min(max(1.0, sum(one.reading.confidence for one in given)), INDEPENDENT)
    shares = [one.weight / total * looks for one in given]
    lengths = _lengths(given)
    positions = {length: _positions(given, shares, length) for length in lengths}
    scores, evidence = _all_texts(lengths, positions, grammar)
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)[:GIVEN]
    candidates = tuple(Candidate(text, scores[text] / evidence) for text in ranked)
    text, confidence = candidates[0]
    told = positions[len(text)]
    characters = tuple(
        Character(char, min(1.0, position.get(char, 0.0))) for char, position in zip(text, told, strict=True)
    )
    formats = grammar.formats_of(text)
    return Fused(text, confidence, formats, characters, candidates, told, grammar, lengths[len(text)], evidence)


def _lengths(given: Iterable[Weighed]) -> dict[int, float]:
    """The lengths of the readings' texts and their shares: squared, because readings of different frames agree."""
    sums: dict[int, float] = defaultdict(float)
    for reading, weight in given:
        for text, confidence in reading.candidates:
            if text:
                sums[len(text)] += weight * confidence
    total = sum(value**2 for value in sums.values()) or 1.0
    return {length: value**2 / total for length, value in sums.items()}


def _all_texts(
    lengths: dict[int, float], positions: dict[int, tuple[Position, ...]], grammar: Grammar
) -> tuple[dict[str, float], float]:
    """The scores of the most probable texts of all lengths, and the sum of all texts' scores."""
    scores: dict[str, float] = {}
    evidence = 0.0
    for length, share in lengths.items():
        found, total = _texts(positions[length], grammar)
        scores.update((text, share * score) for text, score in found.items())
        evidence += share * total
    return scores, evidence or 1.0


def _positions(given: Sequence[Weighed], shares: Sequence[float], length: int) -> tuple[Position, ...]:
    """The probabilities of the characters at each position of texts of this length; what is left is all others'."""
    told = [(share, *_marginals(one.reading, length)) for one, share in zip(given, shares, strict=True)]
    return tuple(
        _position([(share, left, marginals[place]) for share, left, marginals in told]) for place in range(length)
    )


def _position(told: Sequence[tuple[float, float, Position]]) -> Position:
    """One position of all readings: of each its weight, what it leaves open, and its probabilities."""
    seen = sorted({char for _, _, marginals in told for char in marginals})
    logs = [
        sum(share * math.log(marginals.get(char, 0.0) + left / CHARACTERS) for share, left, marginals in told)
        for char in seen
    ]
    other = sum(share * math.log(left / CHARACTERS) for share, left, _ in told) + math.log(CHARACTERS - len(seen))
    top = max(*logs, other)
    scores = [math.exp(value - top) for value in logs]
    total = sum(scores) + math.exp(other - top)
    return {char: score / total for char, score in zip(seen, scores, strict=True)}


def _marginals(reading: Reading, length: int) -> tuple[float, list[Position]]:
    """What a reading leaves open at each position, and the probabilities of the characters there.

    By its texts of this length. All positions together are as certain as these texts are.
    """
    texts = [(text, share) for text, share in reading.candidates if len(text) == length]
    total = sum(share for _, share in texts)
    certain = min(total, 1 - OPEN) ** (1 / length)
    found: list[Position] = [defaultdict(float) for _ in range(length)]
    for text, share in texts:
        for position, char in zip(found, text, strict=True):
            position[char] += share * certain / total
    return 1 - certain, found


def _texts(positions: Sequence[Position], grammar: Grammar) -> tuple[dict[str, float], float]:
    """The most probable texts and their scores, the product of their characters' probabilities, times the prior; and
    the sum of all texts' scores, in which those that are not among them count as if they fitted."""
    beam = {"": 1.0}
    for position in positions:
        longer = {text + char: score * share for text, score in beam.items() for char, share in position.items()}
        beam = dict(sorted(longer.items(), key=lambda item: -item[1])[:BEAM])
    likely = dict(list(beam.items())[:TEXTS])
    scores = {text: score * (1.0 if grammar.formats_of(text) else OTHER) for text, score in likely.items()}
    return scores, sum(scores.values()) + max(0.0, 1 - sum(likely.values()))


def _confused(position: Position, char: str) -> float:
    """The probability of a character in a list, given what was read."""
    twins = next((group for group in TWINS if char in group), char)
    same = sum(position.get(twin, 0.0) for twin in twins)
    others = {other for group in ALIKE if char in group for other in group} - set(twins)
    return min(1.0, same + CONFUSED * sum(position.get(other, 0.0) for other in others))
