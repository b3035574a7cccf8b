"""The prior over texts: what is known of a plate's text before its image is looked at.

A text that fits a format of the grammar has the weight 1, any other OTHER. The empty text, which says that there is no
plate, has 1 too. Weights are relative: what counts is the ratio of two of them.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.artifact import Format

# How probable a text that fits no format is, against one that fits: about one plate in a hundred is of a kind that no
# format describes.
OTHER: Final = 0.01

Rest = tuple[int, tuple[str, ...]]  # the number of a format, and what remains of one of its templates
State = frozenset[Rest]  # of the automaton: templates of a format that go on alike are one


class Allowed(NamedTuple):
    """What a part of the grammar allows in each state of the automaton of all: `follows` (S, C) are the next states,
    `viable` (S, C) whether a text of the part goes on so, and `ends` (S,) whether one ends there."""

    follows: NDArray[np.int64]
    viable: NDArray[np.bool_]
    ends: NDArray[np.bool_]


class Prior:
    """The weights as a deterministic automaton that reads a text label by label, from state 0 on.

    `follows[state][label]` is the next state. `weights[state, label]` is the largest weight that a text can have that
    goes on with this label; at the blank's place it is that of the text that ends here. `bounds[state]` is the largest
    weight of any text that leads through the state.
    """

    def __init__(self, formats: Iterable[Format], classes: Sequence[str]) -> None:
        """`classes` are the characters of the labels; the blank's is empty. Without formats, all texts weigh 1."""
        formats = list(formats)
        self._names = [format.name for format in formats]
        self._blanks = [label for label, char in enumerate(classes) if not char]
        start: State = frozenset(
            (number, template) for number, format in enumerate(formats) for template in format.templates
        )
        states, places = [start], {start: 0}
        follows, viable = [], []
        for state in states:  # which grows meanwhile
            after = _after(state)
            nexts = [frozenset(after.get(char, ())) for char in classes]
            for found in nexts:
                if places.setdefault(found, len(states)) == len(states):
                    states.append(found)
            follows.append([places[found] for found in nexts])
            ends = state == start or bool(self._ending(state))
            viable.append([bool(found) if char else ends for found, char in zip(nexts, classes, strict=True)])
        self.follows: list[list[int]] = follows
        self.weights: NDArray[np.float64] = np.where(viable, 1.0, OTHER if start else 1.0)
        self.bounds: list[float] = self.weights.max(axis=1).tolist()
        self._formats = [self._ending(state) for state in states]
        self._next = np.array(self.follows)
        self._alive, self._ended = (np.zeros((len(states), len(formats)), np.bool_) for _ in range(2))
        for place, state in enumerate(states):
            for number, rest in state:
                self._alive[place, number] = True
                self._ended[place, number] |= not rest

    def allowed(self, formats: Iterable[Format]) -> Allowed:
        """What is allowed to texts of these formats, a part of those of the prior; others are left out."""
        wanted = {format.name for format in formats}
        part = np.array([name in wanted for name in self._names], np.bool_)
        viable = np.asarray(self._alive[:, part].any(axis=1))[self._next]
        viable[:, self._blanks] = False
        return Allowed(self._next, viable, np.asarray(self._ended[:, part].any(axis=1)))

    def formats(self, labels: Iterable[int]) -> tuple[str, ...]:
        """Names of the formats that a labelling fits, in their order."""
        state = 0
        for label in labels:
            state = self.follows[state][label]
        return self._formats[state]

    def _ending(self, state: State) -> tuple[str, ...]:
        """Names of the formats whose texts end in a state."""
        return tuple([self._names[number] for number in sorted({number for number, rest in state if not rest})])


def _after(state: State) -> dict[str, list[Rest]]:
    """The state behind one more character, for each character that leads to one."""
    found: dict[str, list[Rest]] = {}
    for number, rest in state:
        for char in rest[0] if rest else ():
            found.setdefault(char, []).append((number, rest[1:]))
    return found
