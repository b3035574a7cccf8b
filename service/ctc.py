"""Connectionist temporal classification (Graves et al., ICML 2006), the reading side, for one plate at a time.

A network gives each of T frames a probability for every one of C classes, one of which is the blank. A path picks a
class per frame; collapsing its repeats and then dropping its blanks gives a labelling, and a labelling is as probable
as all paths that collapse to it together.

Everything here works on probabilities divided by the largest of their frame, `scaled`, instead of on logarithms: every
factor is then at most 1, so a term that underflows could never have contributed more than 1e-308 of the best path's
probability, and products are cheaper than `logaddexp`.
"""

import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

Labels = tuple[int, ...]
Float = NDArray[np.float64]

FLOOR = 1e-3  # a class below this share of its frame's best is followed only as one of the LEAST most probable
LEAST, MOST = 2, 6  # classes followed per frame: few where the frame is certain, more where it is not


def softmax(logits: NDArray[np.floating]) -> Float:
    """Logits (..., C) to probabilities (..., C), in float64."""
    shifted = np.asarray(logits, np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: Float = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def beam_search(probabilities: Float, blank: int, width: int) -> list[Labels]:
    """The most probable labellings of (T, C) probabilities, best first, at most `width` of them.

    Prefix beam search (Hannun et al., arXiv 1408.2873, without a language model): a prefix carries the probability of
    its paths that end in a blank and of those that do not, because a repeated label extends only the former. It is
    approximate in which labellings it finds; `likelihood` says exactly how probable they are.
    """
    beams: dict[Labels, tuple[float, float]] = {(): (1.0, 0.0)}
    for frame in _frames(probabilities):
        grown: dict[Labels, list[float]] = {}  # [ends in a blank, ends in its last label]
        for prefix, (after_blank, after_label) in beams.items():
            either = after_blank + after_label
            last = prefix[-1] if prefix else blank
            for label, p in frame:
                if label == blank:
                    grown.setdefault(prefix, [0.0, 0.0])[0] += either * p
                    continue
                longer = grown.setdefault((*prefix, label), [0.0, 0.0])
                if label == last:
                    longer[1] += after_blank * p
                    grown.setdefault(prefix, [0.0, 0.0])[1] += after_label * p
                else:
                    longer[1] += either * p
        best = sorted(((sum(ends), prefix) for prefix, ends in grown.items()), key=itemgetter(0), reverse=True)
        beams = {prefix: (grown[prefix][0], grown[prefix][1]) for total, prefix in best[:width] if total > 0}
    return list(beams)


def likelihood(probabilities: Float, labellings: Sequence[Labels], blank: int) -> Float:
    """Exact probability of each labelling (K,) given (T, C) probabilities: the forward pass, all K at once.

    Graves et al. 2006, section 4.1: the labels with blanks between and around them form a lattice of 2 L + 1 states; a
    path stays, moves on by one, or skips a blank that stands between two different labels.
    """
    states, lengths = _lattice(labellings, blank)
    rows = np.arange(len(labellings))
    peak = probabilities.max(axis=1)
    emitted = (probabilities / peak[:, None])[:, states]  # (T, K, S)
    skips = _skips(states, blank).astype(np.float64)
    # Two columns in front turn "one state before" and "two before" into slices; every path starts in the second.
    alpha = np.zeros((len(labellings), states.shape[1] + 2))
    alpha[:, 1] = 1.0
    for frame in emitted:
        alpha[:, 2:] = frame * (alpha[:, 2:] + alpha[:, 1:-1] + skips * alpha[:, :-2])
        alpha[:, :2] = 0.0
    ends_label = np.where(lengths > 0, alpha[rows, 2 * lengths + 1], 0.0)
    total = (alpha[rows, 2 * lengths + 2] + ends_label) * peak.prod()
    result: Float = np.minimum(total, 1.0)  # rounding can lift it above
    return result


def align(probabilities: Float, labels: Labels, blank: int) -> Float:
    """How surely each label is seen, (L,): its largest probability within its run of the best path that reads `labels`.

    The best path is found by Viterbi's algorithm on the lattice of `likelihood`. Zeros where T is too small for any
    path to exist.
    """
    states = [blank, *(state for label in labels for state in (label, blank))]
    frames = np.log(np.maximum(probabilities[:, states], np.finfo(np.float64).tiny)).tolist()
    scores = [*frames[0][:2], *[-math.inf] * (len(states) - 2)]
    steps = []
    for frame in frames[1:]:
        step = [_step(scores, states, state) for state in range(len(states))]
        scores = [scores[state - back] + p for state, (back, p) in enumerate(zip(step, frame, strict=True))]
        steps.append(step)
    state = max(range(len(states))[-2:], key=scores.__getitem__)
    seen = np.zeros(len(labels))
    if scores[state] == -math.inf:
        return seen
    for t in range(len(frames) - 1, -1, -1):
        if state % 2:
            seen[state // 2] = max(seen[state // 2], probabilities[t, states[state]])
        state -= steps[t - 1][state] if t else 0
    return seen


def _step(scores: list[float], states: list[int], state: int) -> int:
    """How many states back the best predecessor of `state` lies: 0, 1, or 2 past a blank between different labels."""
    best = 1 if state and scores[state - 1] > scores[state] else 0
    skips = state % 2 and state > 1 and states[state] != states[state - 2]
    return 2 if skips and scores[state - 2] > scores[state - best] else best


def _frames(probabilities: Float) -> list[list[tuple[int, float]]]:
    """Per frame the (class, scaled probability) pairs worth following, most probable first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :MOST]
    scaled = np.take_along_axis(probabilities, order, axis=1) / probabilities.max(axis=1, keepdims=True)
    kept = np.maximum((scaled >= FLOOR).sum(axis=1), LEAST)
    return [
        list(zip(classes[:count], values[:count], strict=True))
        for classes, values, count in zip(order.tolist(), scaled.tolist(), kept.tolist(), strict=True)
    ]


def _lattice(labellings: Sequence[Labels], blank: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The class of every state (K, S), blanks at even places and beyond the end, and the number of labels (K,)."""
    lengths = np.array([len(labels) for labels in labellings], np.int64)
    states = np.full((len(labellings), 2 * int(lengths.max()) + 1), blank, np.int64)
    for row, labels in zip(states, labellings, strict=True):
        row[1 : 2 * len(labels) : 2] = labels
    return states, lengths


def _skips(states: NDArray[np.int64], blank: int) -> NDArray[np.bool_]:
    """Whether a state (K, S) may be entered from two before: the first label, or one unlike the label before."""
    skips = np.zeros(states.shape, np.bool_)
    skips[:, 1:2] = True
    skips[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    return skips
