"""Connectionist temporal classification (Graves et al., ICML 2006), the reading side, for one plate at a time.

A network gives each of T frames a probability for every one of C classes, one of which is the blank. A path picks a
class per frame; collapsing its repeats and then dropping its blanks gives a labelling, and a labelling is as probable
as all paths that collapse to it together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from operator import mul
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.reading.prior import Allowed, Prior

Labels = tuple[int, ...]
Float = NDArray[np.float64]

PATIENCE = 64  # steps of `search`, after which it makes do with what it has found
BEAM = 128  # prefixes that `fitting` keeps at each position


def softmax(logits: NDArray[np.floating]) -> Float:
    """Logits (..., C) to probabilities (..., C), in float64."""
    probabilities: Float = np.array(logits, np.float64)
    probabilities -= probabilities.max(axis=-1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


class Place(NamedTuple):
    """Where a label is seen: its largest probability there, the first frame, and the one after the last."""

    sure: float
    begin: int
    end: int


@dataclass(slots=True)
class _Way:
    """A labelling and what leads to it from a known prefix, its first `start` labels. The first label is a blank, which
    stands for none: so every prefix has a last label.

    `reach[i][t]` is the probability of all paths through the first t frames that collapse to the prefix of `start + i`
    labels, and `begins` the frame where each label begins in some probable path. `states` are those of the prior behind
    the same prefixes, and `bound` is the largest weight of what begins with the first of them.
    """

    labels: Labels
    begins: list[int]
    start: int
    reach: list[list[float]]
    states: list[int]
    bound: float


class _Lattice:
    """The forward pass over (T, C) probabilities, label by label: labellings share the pass over their prefix."""

    def __init__(self, probabilities: Float, blank: int, prior: Prior) -> None:
        self.classes = probabilities.shape[1]
        self._probabilities = probabilities
        self._prior = prior
        self._blank = blank
        self._columns: dict[int, list[float]] = {}
        self._blanks = self._column(blank)
        self._apart = (probabilities[:-1, blank, None] * probabilities[1:]).T  # a blank, and then each class
        self._runs = _runs(probabilities.argmax(axis=1).tolist(), blank)

    def align(self, labels: Labels) -> list[Place]:
        """As `Search.align`."""
        runs = self._runs
        if tuple([label for label, _, _ in runs]) != labels:
            runs = _runs(_viterbi(self._probabilities, labels, self._blank), self._blank)
        return [Place(max(self._column(label)[begin:end]), begin, end) for label, begin, end in runs]

    def likeliest(self) -> _Way:
        """The way of the most probable path."""
        return self._whole(tuple([label for label, _, _ in self._runs]), [begin for _, begin, _ in self._runs])

    def product(self, labels: Labels) -> float:
        """The probability of a labelling, times its prior weight."""
        way = self._whole(labels, [])
        return way.reach[-1][-1] * self.weight(way)

    def prefixes(self, labels: Labels) -> list[float]:
        """The probability of each prefix of a labelling, from the empty one to all of it."""
        return [reach[-1] for reach in self._whole(labels, []).reach]

    def branched(self, way: _Way, depth: int, label: int) -> _Way:
        """The way that leaves another for `label` and then goes on like that one, with what it reads later."""
        end = way.start + depth
        emitted = list(map(mul, way.reach[depth], self._column(label)))
        frame = emitted.index(max(emitted))
        later = next((i for i in range(end, len(way.labels)) if way.begins[i] > frame), len(way.labels))
        reach = self._grown(way.reach[depth], way.labels[end - 1], label)
        labels, begins = (*way.labels[:end], label), [*way.begins[:end], frame]
        state = self._prior.follows[way.states[depth]][label]
        return self._way(labels, begins, reach, state, way.labels[later:], way.begins[later:])

    def weight(self, way: _Way) -> float:
        """The prior weight of the way's own labelling."""
        return float(self._prior.weights[way.states[-1], self._blank])

    def branches(self, way: _Way) -> Float:
        """What all labellings have together that leave the way after its prefix i for the label c, times the largest
        weight among them, at i * C + c; where c is the blank, they end there. What stays on the way has 0."""
        reach = np.array(way.reach)
        lasts = np.array(way.labels[way.start - 1 :])
        places = np.arange(0, reach.shape[0] * self.classes, self.classes)
        branches: Float = (reach[:, :-1] @ self._probabilities).ravel()
        # A label that repeats the one before it needs a blank between.
        branches[places + lasts] = (reach[:, :-2] * self._apart.take(lasts, axis=0)).sum(axis=1)
        branches[places + self._blank] = reach[:, -1]
        branches[places[:-1] + lasts[1:]] = 0.0
        branches[places[-1] + self._blank] = 0.0
        branches *= self._prior.weights.take(way.states, axis=0).ravel()
        return branches

    def _whole(self, labels: Labels, begins: list[int]) -> _Way:
        """The way of a labelling from its first label on."""
        reach = [1.0]
        for q in self._blanks:
            reach.append(reach[-1] * q)
        return self._way((self._blank,), [-1], reach, 0, labels, begins)

    def _way(
        self, labels: Labels, begins: list[int], reach: list[float], state: int, rest: Labels, rest_begins: list[int]
    ) -> _Way:
        reaches, states, last = [reach], [state], labels[-1]
        for label in rest:
            reaches.append(reach := self._grown(reach, last, label))
            states.append(state := self._prior.follows[state][label])
            last = label
        bound = self._prior.bounds[states[0]]
        return _Way(labels + rest, begins + rest_begins, len(labels), reaches, states, bound)

    def _grown(self, reach: list[float], last: int, label: int) -> list[float]:
        """The reach of a prefix with one more `label`, from that of the prefix, whose last label is `last`.

        Graves et al. 2006, section 4.1: a path is in `label` if it was there or comes from the prefix, over a blank if
        the two labels are the same; and it has read `label` if it is there, or was and blanks followed.
        """
        if label == last:
            reach = [0.0, *map(mul, self._blanks, reach)]
        there = either = 0.0
        grown = [0.0]
        for before, p, q in zip(reach, self._column(label), self._blanks, strict=False):
            there = p * (there + before)
            either = q * either + there
            grown.append(either)
        return grown

    def _column(self, label: int) -> list[float]:
        if label not in self._columns:
            self._columns[label] = self._probabilities[:, label].tolist()
        return self._columns[label]


class Search:
    """The labellings of (T, C) probabilities with the posterior of each under a prior, the most probable first.

    By Bayes' rule, the posterior of a labelling is its probability times its prior weight, divided by the sum of these
    products over all labellings. These are too many to add up. But the search divides them into parts, and knows the
    exact probability of each part and the largest weight in it. The sum over the parts is no less than the sum over the
    labellings, so each posterior is a lower bound, and all add up to at most 1. `evidence` is the sum over the parts
    when the first labelling is found: it does not depend on how many are asked for. Under a uniform prior it is 1.

    Prefix search (Graves et al. 2006, section 3.2): what all labellings that begin with a prefix have together bounds
    each of them, so one that is at least as probable as anything not looked at yet can have is the next best. Two
    things make it fast where the network is sure. A prefix is followed not by one label but all the way to the
    labelling that it seems to lead to. And what branches off that way is worked out only if it could be the next best,
    going by what the prefix has and the labelling leaves.

    A network that is sure of nothing exhausts the `patience`: then what has been found follows in its order, still
    with exact probabilities, but something more probable may be missing.
    """

    def __init__(self, probabilities: Float, blank: int, prior: Prior, patience: int = PATIENCE) -> None:
        self.evidence = 1.0  # an upper bound, which sinks until the first labelling is found
        self._settled = False
        self._lattice = _Lattice(probabilities, blank, prior)
        self._blank = blank
        self._patience = patience
        self._number = count()  # heaps go by it where probabilities are equal, instead of comparing ways
        self._found: list[tuple[float, int, Labels]] = []
        self._ways: list[tuple[float, int, _Way, Float | None]] = []  # with their branches, once these are worked out

    def __iter__(self) -> Iterator[tuple[Labels, float]]:
        """Each labelling once. To be called once."""
        self._follow(self._lattice.likeliest(), 1.0)
        self._look()
        self._settled = True
        while self._found:
            product, _, labels = heappop(self._found)
            yield labels, min(-product / self.evidence, 1.0)  # rounding can lift it above
            self._look()

    @property
    def exhausted(self) -> bool:
        """Whether the patience is at an end, so that something more probable may be missing in what is found."""
        return not self._patience

    def posterior(self, labels: Labels) -> float:
        """That of any labelling, as it is yielded. To be called when the first one is found."""
        return min(self._lattice.product(labels) / self.evidence, 1.0)

    def prefixes(self, labels: Labels) -> list[float]:
        """The probability of each prefix of a labelling, from the empty one to all of it."""
        return self._lattice.prefixes(labels)

    def align(self, labels: Labels) -> list[Place]:
        """Where each label is seen, and its largest probability within its run of the best path that reads `labels`.

        That is the path of the most probable classes, if it reads them, or else the one that Viterbi's algorithm finds.
        """
        return self._lattice.align(labels)

    def _follow(self, way: _Way, most: float) -> None:
        """Take up a way, of whose labellings the products of probability and weight are `most` together, at most."""
        probability, weight = way.reach[-1][-1], self._lattice.weight(way)
        if probability:
            heappush(self._found, (-probability * weight, next(self._number), way.labels[1:]))
        rest = most - probability * way.bound
        if not self._settled:
            self.evidence += probability * weight + rest - most
        heappush(self._ways, (-rest, next(self._number), way, None))

    def _look(self) -> None:
        """Search until the best of what was found is the next best of all."""
        found, ways, classes = self._found, self._ways, self._lattice.classes
        while self._patience and ways[0][0] < (found[0][0] if found else 0.0):
            self._patience -= 1
            bound, _, way, branches = heappop(ways)
            if branches is None:
                branches = self._lattice.branches(way)
                if not self._settled:
                    self.evidence += bound + float(branches.sum())
            else:
                best = int(branches.argmax())
                branches[best] = 0.0
                depth, label = divmod(best, classes)
                if label == self._blank:
                    heappush(found, (bound, next(self._number), way.labels[1 : way.start + depth]))
                else:
                    self._follow(self._lattice.branched(way, depth, label), -bound)
            heappush(ways, (-float(branches[branches.argmax()]), next(self._number), way, branches))


def fitting(probabilities: Float, blank: int, allowed: Allowed, beam: int = BEAM) -> list[tuple[Labels, float]]:
    """The allowed labellings of (T, C) probabilities, each with its exact probability, the most probable first.

    A beam search label by label: of each length it keeps the `beam` prefixes that most of the probability leads
    through, whatever follows them (Graves et al. 2006, section 3.2). As with every beam, a better labelling may be
    missing.
    """
    blanks = probabilities[:, blank, None]
    prefixes: list[Labels] = [()]
    states = np.zeros(1, np.int64)
    reach = np.cumprod(np.concatenate([np.ones((1, 1)), blanks]), axis=0)  # (T + 1, prefixes), as in `_Way`
    found: list[tuple[Labels, float]] = []
    while prefixes:
        found += [(prefixes[at], float(reach[-1, at])) for at in np.flatnonzero(allowed.ends[states])]
        lasts = np.array([labels[-1] if labels else blank for labels in prefixes])
        mass = reach[:-1].T @ probabilities
        # A label that repeats the one before it needs a blank between.
        apart = np.concatenate([np.zeros((1, len(prefixes))), blanks[:-1] * reach[:-2]])
        every = np.arange(len(prefixes))
        mass[every, lasts] = (apart * probabilities[:, lasts]).sum(0)
        mass[~allowed.viable[states]] = 0.0
        best = np.argsort(-mass, axis=None)[:beam]
        parents, labels = np.divmod(best[mass.flat[best] > 0], probabilities.shape[1])
        before = np.where(lasts[parents] == labels, apart[:, parents], reach[:-1, parents])
        reach = _grown_together(before, probabilities[:, labels], blanks)
        states = allowed.follows[states[parents], labels]
        prefixes = [(*prefixes[at], int(label)) for at, label in zip(parents, labels, strict=True)]
    return sorted(found, key=lambda one: -one[1])


def _grown_together(before: Float, columns: Float, blanks: Float) -> Float:
    """The reach (T + 1, n) of n prefixes that grew by a label each, as `_Lattice._grown` has it of one: from their
    reach (T, n) before, the probabilities (T, n) of those labels, and the blank's (T, 1)."""
    reach = np.zeros((len(before) + 1, before.shape[1]))
    there = np.zeros(before.shape[1])
    for t in range(len(before)):
        there = columns[t] * (there + before[t])
        reach[t + 1] = blanks[t] * reach[t] + there
    return reach


def _runs(path: list[int], blank: int) -> list[tuple[int, int, int]]:
    """What a path reads: each label with its first frame and the one after its last."""
    runs, begin = [], 0
    for t in range(1, len(path) + 1):
        if t == len(path) or path[t] != path[begin]:
            if path[begin] != blank:
                runs.append((path[begin], begin, t))
            begin = t
    return runs


def _viterbi(probabilities: Float, labels: Labels, blank: int) -> list[int]:
    """The classes of the most probable path that reads `labels`, on a lattice with a state for each label and for the
    blanks around it: a path stays, moves on by one, or skips a blank that stands between two different labels."""
    states = [blank, *(state for label in labels for state in (label, blank))]
    frames = np.log(np.maximum(probabilities[:, states], np.finfo(np.float64).tiny)).tolist()
    scores = [*frames[0][:2], *[-math.inf] * (len(states) - 2)]
    steps = []
    for frame in frames[1:]:
        step = [_step(scores, states, state) for state in range(len(states))]
        scores = [scores[state - back] + p for state, (back, p) in enumerate(zip(step, frame, strict=True))]
        steps.append(step)
    state = max(range(len(states))[-2:], key=scores.__getitem__)
    path = [states[state]]
    for step in reversed(steps):
        state -= step[state]
        path.append(states[state])
    return path[::-1]


def _step(scores: list[float], states: list[int], state: int) -> int:
    """How many states back the best predecessor of `state` lies: 0, 1, or 2 past a blank between different labels."""
    best = 1 if state and scores[state - 1] > scores[state] else 0
    skips = state % 2 and state > 1 and states[state] != states[state - 2]
    return 2 if skips and scores[state - 2] > scores[state - best] else best
