"""Texts from logits, once for training, evaluation and serving alike.

Logits -> `Reader.read` -> text, confidences, candidates (or `greedy` for many plates and only their texts).

The network tells P(text | image), the CTC probability summed over all alignments. It was trained on texts of known
formats, but its output is not held to them. So a prior says how probable a text is before the image is seen: 1 for one
that fits a format of the grammar, 0.01 for any other (`prior.OTHER`). By Bayes' rule, the confidence of a text is

    P(text | image) * prior(text) / sum over all texts of P(text' | image) * prior(text')

as in speech recognition, where a CTC network is combined with a language model (Hannun et al. 2014, arXiv 1412.5567,
section 2.2). `ctc.Search` finds the texts in the order of their confidence, and bounds the sum from above: what it has
not looked into counts with the largest prior that is possible there. So a confidence is a lower bound, confidences of
different texts add up to at most 1, and an improbable text does not become certain for want of better ones.

Where the first text is unsure, two more things are weighed by Bayes' rule. 0 and O, 1 and I are drawn alike on many
plates: texts that differ in these alone share their confidences by how frequent each is among the texts of all formats.
And in several views each text counts by how probable the looks of the plate are of one that says it: a green plate of
China has a character more than a blue one. In one view they would make a text seem sure that a second look corrects.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.artifact import Grammar, Looks, Reads, Region
from service.artifact.grammar import UNKNOWN
from service.reading import ctc
from service.reading.prior import Prior

TEXTS: Final = 3  # of each of several views, that may be what the plate says
LEAST: Final = 0.001  # probability of a text in a view, at least: a view that shows something else is no proof

TWINS: Final = str.maketrans("OI", "01")  # characters that are drawn alike on many plates
UNSURE: Final = 0.9  # confidence of the first text below which texts are weighed
WEIGHED: Final = 10  # so many first texts of one view are weighed
RARE: Final = 1e-13  # frequency of a text that fits no format: as of one of eight letters and digits in any order


class Character(NamedTuple):
    """One character and its largest probability among the frames in which the best path emits it."""

    char: str
    confidence: float


class Candidate(NamedTuple):
    """A possible text and its confidence, the posterior probability of exactly this text."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Reading:
    """What one plate says. `text` and `confidence` are those of `candidates[0]`; the candidates are sorted.

    `formats` are the names of the formats of the grammar that the text fits, in the grammar's order; where the plate's
    looks are known, those that have a kind that looks so, if any has. `region` is the country that it is most probably
    of. Of a network that sees no character, the text is empty.
    """

    text: str
    confidence: float
    formats: tuple[str, ...]
    characters: tuple[Character, ...]
    candidates: tuple[Candidate, ...]
    region: Region | None = None

    @property
    def valid_format(self) -> bool:
        """Whether the text fits a known plate format."""
        return bool(self.formats)


class Reader:
    """Turns the logits of a model with this alphabet, blank and grammar into texts. Threads may share it."""

    def __init__(self, alphabet: str, blank: int, grammar: Grammar, temperature: float = 1.0) -> None:
        """`temperature` is what logits are divided by, so that confidences are calibrated."""
        self._classes = _classes(alphabet, blank)
        self._blank = blank
        self._grammar = grammar
        self._temperature = temperature
        self._prior = Prior(grammar.formats, self._classes)
        self._no_prior = Prior((), self._classes)  # of a part of a text, nothing is known

    @classmethod
    def of(cls, model: Reads) -> "Reader":
        """The reader of a model, by its manifest."""
        return cls(model.alphabet, model.blank, model.grammar, model.temperature)

    def read(
        self,
        logits: NDArray[np.floating],
        top_k: int = 1,
        only: Grammar | None = None,
        looks: Looks | None = None,
        seen: NDArray[np.floating] | None = None,
        rows: NDArray[np.floating] | None = None,
    ) -> Reading:
        """One plate's logits (T, C), or those of several views of it (N, T, C), to its `top_k` most probable texts; of
        several views, fewer where no more are probable in any.

        With `only`, a part of the grammar, they are the most probable ones that fit one of its formats: the decoding
        itself is held to them, so that they are found however improbable they are. The confidence of a text is the same
        with `only` and without it. The reading is empty where no text of `only` fits the frames.

        Several views are taken together as `_pooled` does; `rows` (2, T, C) are the logits of the upper and the lower
        row of the plate, each alone, and are one view more. `looks` are what was seen of the plate beside its text.
        `seen` (W,) are the shares of the crop's columns that lie in the image, where its edge cuts the plate: a
        character is as much less sure as it lies outside.
        """
        views = ctc.softmax(np.asarray(logits, np.float64) / self._temperature)
        views = views[None] if views.ndim == 2 else views
        searches = [self._search(view) for view in views]
        if len(views) == 1:
            ranked = self._alone(views[0], searches[0], looks, only, top_k)
        else:
            apart = None if rows is None else self._rows(rows)
            ranked = self._pooled(views, searches, apart, looks, only, top_k)
        if not ranked:
            return Reading("", 0.0, (), (), ())
        labels = ranked[0][0]
        places = [search.align(labels) for search in searches]
        visible = [1.0] * len(labels) if seen is None else _visible(places[0], views.shape[1], seen)
        all_visible = math.prod(visible)
        candidates = tuple([Candidate(self._text(found), sure * all_visible) for found, sure in ranked])
        text, confidence = candidates[0]
        sures = (sum(place.sure for place in one) / len(one) for one in zip(*places, strict=True))
        characters = tuple(
            [Character(char, sure * share) for char, sure, share in zip(text, sures, visible, strict=True)]
        )
        grammar = only or self._grammar
        formats = self._prior.formats(labels) if only is None else only.formats_of(text)
        region = grammar.region(text, looks, formats)
        if looks is not None:
            formats = grammar.looking(formats, looks)
        return Reading(text, confidence, formats, characters, candidates, region)

    def _rows(self, logits: NDArray[np.floating]) -> "_Rows":
        probabilities = ctc.softmax(np.asarray(logits, np.float64) / self._temperature)
        return _Rows(
            *(ctc.Search(row, self._blank, self._no_prior) for row in (probabilities[0], probabilities[1, ::-1]))
        )

    def _search(self, probabilities: ctc.Float) -> ctc.Search:
        return ctc.Search(probabilities, self._blank, self._prior)

    def _alone(
        self, view: ctc.Float, search: ctc.Search, looks: Looks | None, only: Grammar | None, top_k: int
    ) -> list[tuple[ctc.Labels, float]]:
        """The `top_k` labellings of the highest posterior, of those that fit `only` if it is given.

        All texts that fit have the same prior, so these are the first of the search that fit. Where it finds too few of
        them soon, they are looked for among those alone that fit.
        """
        texts = iter(search)
        found = list(islice(texts, 1))
        sure = only is None and bool(found) and found[0][1] >= UNSURE
        found += islice(texts, (top_k if sure else max(top_k, WEIGHED)) - 1)
        found = self._shared(found, looks)
        if only is None:
            return found[:top_k]
        fitting = [each for each in found if only.formats_of(self._text(each[0]))]
        if len(fitting) < top_k or search.exhausted:
            known = {labels for labels, _ in found}
            fitting += [each for each in self._fitting(view, search, only) if each[0] not in known]
        return sorted(fitting, key=lambda each: -each[1])[:top_k]

    def _shared(self, found: Sequence[tuple[ctc.Labels, float]], looks: Looks | None) -> list[tuple[ctc.Labels, float]]:
        """Labellings and their confidences, the highest first: as they are where the first one is sure.

        Else those that differ in TWINS alone share the sum of their confidences: each has what it had times the
        frequency of its text in the grammar, all countries being equally frequent.
        """
        if not found or found[0][1] >= UNSURE:
            return [*found]
        groups: dict[str, list[tuple[ctc.Labels, float]]] = {}
        for labels, sure in found:
            groups.setdefault(self._text(labels).translate(TWINS), []).append((labels, sure))
        shared = []
        for group in groups.values():
            products = [sure * max(self._grammar.frequency(self._text(labels), looks), RARE) for labels, sure in group]
            scale = sum(sure for _, sure in group) / (sum(products) or 1.0)
            shared += [(labels, scale * product) for (labels, _), product in zip(group, products, strict=True)]
        return sorted(shared, key=lambda each: -each[1])

    def _looking(self, found: Sequence[tuple[ctc.Labels, float]], looks: Looks) -> list[tuple[ctc.Labels, float]]:
        """Labellings and their confidences, the highest first: as they are where the first one is sure.

        Else each is multiplied by the likelihood of the looks, and scaled so that they and all that is left add up to
        1. What is left, the texts that were not found, has the likelihood of those that fit no format.
        """
        if not found or found[0][1] >= UNSURE:
            return [*found]
        products = [(labels, sure * self._grammar.likelihood(looks, self._text(labels))) for labels, sure in found]
        left = max(0.0, 1.0 - sum(sure for _, sure in found)) * UNKNOWN
        evidence = left + sum(product for _, product in products)
        return sorted([(labels, product / evidence) for labels, product in products], key=lambda each: -each[1])

    def _pooled(
        self,
        views: ctc.Float,
        searches: Sequence[ctc.Search],
        apart: "_Rows | None",
        looks: Looks | None,
        only: Grammar | None,
        top_k: int,
    ) -> list[tuple[ctc.Labels, float]]:
        """Up to `top_k` labellings of the highest geometric mean of their posteriors in all views, each at least LEAST.

        That is a logarithmic opinion pool (Genest and Zidek 1986) of the first TEXTS of each view, and of those that
        the first TEXTS of two rows `apart` make together. The means are scaled so that they and LEAST, for all other
        labellings, add up to 1. On rendered development plates such confidences were as often right as they say, while
        arithmetic means were too low.
        """
        known = {labels for search in searches for labels, _ in islice(search, TEXTS)}
        sources: list[ctc.Search | _Rows] = [*searches]
        if apart is not None:
            # Texts that do not fit the frames of a view have no probability there.
            known |= {labels for labels in apart.texts() if searches[0].posterior(labels)}
            sources.append(apart)
        scores = {labels: _mean(max(source.posterior(labels), LEAST) for source in sources) for labels in sorted(known)}
        evidence = LEAST + sum(scores.values())
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        # Without looks, which count for all texts below and must not count twice.
        found = self._shared([(labels, scores[labels] / evidence) for labels in ranked], None)
        if looks is not None:
            found = self._looking(found, looks)
        if only is not None:
            found = [each for each in found if only.formats_of(self._text(each[0]))]
            if len(found) < top_k:
                others = [labels for labels, _ in self._fitting(views[0], searches[0], only) if labels not in known]
                found += self._improbable(searches, others[:top_k], evidence)
        return found[:top_k]

    def _improbable(
        self, searches: Sequence[ctc.Search], labellings: Sequence[ctc.Labels], evidence: float
    ) -> list[tuple[ctc.Labels, float]]:
        """Labellings that are among the first of no view, each as improbable as that, and in their order."""
        found = [(each, LEAST * _mean(search.posterior(each) for search in searches) / evidence) for each in labellings]
        return sorted(found, key=lambda each: -each[1])

    def _fitting(self, probabilities: ctc.Float, search: ctc.Search, only: Grammar) -> list[tuple[ctc.Labels, float]]:
        """The labellings that fit, the most probable first, each with its posterior among all that there are."""
        found = ctc.fitting(probabilities, self._blank, self._prior.allowed(only.formats))
        return [(labels, min(probability / search.evidence, 1.0)) for labels, probability in found]

    def _text(self, labels: ctc.Labels) -> str:
        return "".join([self._classes[label] for label in labels])


class _Rows:
    """The two rows of a plate, each seen alone: the probability of a text is that of its parts, wherever it parts."""

    def __init__(self, upper: ctc.Search, lower: ctc.Search) -> None:
        """`lower` reads its row from the right to the left, so that its prefixes are the ends of texts."""
        self._upper, self._lower = upper, lower

    def texts(self) -> set[ctc.Labels]:
        """What the first TEXTS of both rows make together."""
        above, below = ([labels for labels, _ in islice(row, TEXTS)] for row in (self._upper, self._lower))
        return {(*one, *other[::-1]) for one in above for other in below if one and other}

    def posterior(self, labels: ctc.Labels) -> float:
        """That of any labelling. No row is empty."""
        begins, ends = self._upper.prefixes(labels), self._lower.prefixes(labels[::-1])
        return sum(begin * end for begin, end in zip(begins[1:-1], ends[-2:0:-1], strict=True))


def _mean(numbers: Iterable[float]) -> float:
    """The geometric mean."""
    factors = list(numbers)
    return math.prod(factors) ** (1 / len(factors))


def _visible(places: Sequence[ctc.Place], frames: int, seen: NDArray[np.floating]) -> list[float]:
    """The share of each character's part of the crop that lies in the image. The parts meet between two characters."""
    if not places:
        return []
    middles = [(place.begin + place.end) / 2 for place in places]
    between = [(a + b) / 2 for a, b in pairwise(middles)]
    edges = [round(edge * len(seen) / frames) for edge in (0, *between, frames)]
    return [float(seen[begin : max(end, begin + 1)].mean()) for begin, end in pairwise(edges)]


def greedy(logits: NDArray[np.floating], alphabet: str, blank: int) -> list[str]:
    """The texts of N plates from logits (N, T, C): best class per frame, repeats merged, blanks dropped."""
    best = np.asarray(logits).argmax(axis=-1)
    before = np.concatenate([np.full_like(best[:, :1], blank), best[:, :-1]], axis=1)
    chars = np.array(_classes(alphabet, blank))
    emits = (best != blank) & (best != before)
    return ["".join(chars[row[mask]]) for row, mask in zip(best, emits, strict=True)]


@cache
def _classes(alphabet: str, blank: int) -> tuple[str, ...]:
    """The text of every class; the blank's is empty."""
    return (*alphabet[:blank], "", *alphabet[blank:])
