"""What stands after the network, once for training, evaluation and serving alike. Pure functions.

Logits -> `read` -> text, confidences, candidates (or `greedy` for many plates and only their texts).
"""

from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service import ctc
from service.artifact import Grammar

RANKS = 10  # of the most probable texts, a plate's is chosen among
# A text that fits a known format beats a more probable one that does not, unless it is a hundred times less probable:
# about one plate in a hundred is of a kind that no format describes, and those are to be returned as read.
FORMAT_PRIOR = 0.01


class Character(NamedTuple):
    """One character and its largest probability among the frames in which the best path emits it."""

    char: str
    confidence: float


class Candidate(NamedTuple):
    """A possible text and its exact CTC probability, the sum over all alignments."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Reading:
    """What one plate says. `text` and `confidence` are those of `candidates[0]`."""

    text: str
    confidence: float
    format: str | None
    characters: tuple[Character, ...]
    candidates: tuple[Candidate, ...]

    @property
    def valid_format(self) -> bool:
        """Whether the text fits a known plate format."""
        return self.format is not None


def greedy(logits: NDArray[np.floating], alphabet: str, blank: int) -> list[str]:
    """The texts of N plates from logits (N, T, C): best class per frame, repeats merged, blanks dropped."""
    best = np.asarray(logits).argmax(axis=-1)
    before = np.concatenate([np.full_like(best[:, :1], blank), best[:, :-1]], axis=1)
    chars = np.array(_classes(alphabet, blank))
    emits = (best != blank) & (best != before)
    return ["".join(chars[row[mask]]) for row, mask in zip(best, emits, strict=True)]


def read(logits: NDArray[np.floating], alphabet: str, blank: int, grammar: Grammar, top_k: int = 1) -> Reading:
    """One plate's logits (T, C) to its text with the `top_k` most probable candidates.

    The text is the most probable one that fits a format of the grammar (the post-filter of the LPRNet paper, arXiv
    1806.10447, section 3.4), or the most probable one as read if none fits or only improbable ones do (FORMAT_PRIOR).
    The other candidates follow in order of probability.
    """
    classes = _classes(alphabet, blank)
    probabilities = ctc.softmax(logits)
    ranked: list[tuple[ctc.Labels, Candidate]] = []
    chosen, format = 0, None
    for labels, score in islice(ctc.search(probabilities, blank), max(RANKS, 2 * top_k)):
        text = "".join([classes[label] for label in labels])
        ranked.append((labels, Candidate(text, score)))
        probable = score >= FORMAT_PRIOR * ranked[0][1].confidence
        if format is None and probable and (format := grammar.format_of(text)) is not None:
            chosen = len(ranked) - 1
        if len(ranked) >= top_k and (format is not None or not probable):
            break
    labels, candidate = ranked.pop(chosen)
    seen = ctc.align(probabilities, labels, blank)
    return Reading(
        text=candidate.text,
        confidence=candidate.confidence,
        format=format,
        characters=tuple(map(Character, candidate.text, seen)),
        candidates=(candidate, *(other for _, other in ranked[: top_k - 1])),
    )


def read_as(logits: NDArray[np.floating], alphabet: str, blank: int, grammar: Grammar, top_k: int = 1) -> Reading:
    """One plate's logits (T, C) to the `top_k` most probable texts that fit a format of the grammar, and no others.

    The decoding itself is held to the formats, so that a text is found however improbable the model thinks it. Its
    confidence is still its probability among all texts. The text is empty where none fits the frames.
    """
    classes = _classes(alphabet, blank)
    numbers = {char: number for number, char in enumerate(classes) if char}
    probabilities = ctc.softmax(logits)
    scores: dict[ctc.Labels, float] = {}
    for template in dict.fromkeys(template for format in grammar.formats for template in format.templates):
        scores |= ctc.fitting(probabilities, blank, [[numbers[char] for char in allowed] for allowed in template])
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)[:top_k]
    candidates = tuple(
        Candidate("".join([classes[label] for label in labels]), min(scores[labels], 1.0)) for labels in ranked
    )
    if not candidates:
        return Reading("", 0.0, None, (), ())
    text, confidence = candidates[0].text, candidates[0].confidence
    characters = tuple(map(Character, text, ctc.align(probabilities, ranked[0], blank)))
    return Reading(text, confidence, grammar.format_of(text), characters, candidates)


@cache
def _classes(alphabet: str, blank: int) -> tuple[str, ...]:
    """The text of every class; the blank's is empty."""
    return (*alphabet[:blank], "", *alphabet[blank:])
