"""Events: what is told of one passage."""

import math
import uuid
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.artifact.grammar import Looks
from service.video.lists import Match
from service.video.tracks import Track

Moves = Literal["left", "right", "up", "down", "stands"]
Distance = Literal["nears", "leaves"]

MOVED: Final = 0.5  # widths of a plate, from which it has moved
NEARER: Final = 1.15  # times its size, from which it has come nearer


class Character(BaseModel):
    """One character of the text, and the probability that it is right."""

    char: str
    confidence: float


class Candidate(BaseModel):
    """A possible text, and the probability that it is the plate's."""

    text: str
    confidence: float


class Event(BaseModel):
    """One passage of one plate before one camera."""

    id: str = Field(description="The same whenever the event is sent again.")
    camera: str
    text: str
    confidence: float = Field(description="Probability that the plate has exactly this text, by all frames together.")
    formats: list[str] = Field(description="Names of the formats that the text fits.")
    region: str | None = Field(default=None, description="Country, by text, rows and colour, where one is probable.")
    characters: list[Character]
    candidates: list[Candidate]
    first: datetime = Field(description="When the plate was first seen.")
    last: datetime = Field(description="When it was last seen; of a plate that stands, so far.")
    rows: int
    colour: str
    found: float = Field(description="Probability that it is a plate, in the frame that saw it last.")
    moves: Moves = Field(description="Where it moved in the picture.")
    distance: Distance | None = Field(description="Whether it came nearer or went away.")
    box: list[tuple[float, float]] = Field(description="Corners in pixels of the frame that saw it last.")
    sightings: int = Field(description="Frames in which it was found.")
    readings: int = Field(description="Frames whose readings were fused.")
    crop: str | None = Field(default=None, description="File of the best picture, where crops are kept.")
    matches: list[Match] = Field(default_factory=list, description="Entries of the watch lists.")


def event(camera: str, track: Track, start: float) -> Event:
    """The event of a track that was read; its times are seconds since `start`, a Unix time."""
    fused = track.fused
    assert fused is not None
    moves, distance = direction(track.begin, track.plate.corners)
    rows, colour = track.rows.most_common(1)[0][0], track.colours.most_common(1)[0][0]
    looks = Looks(rows, colour, track.plate.aspect)
    region = fused.grammar.region(fused.text, looks, fused.formats)
    return Event(
        id=uuid.uuid4().hex,
        camera=camera,
        text=fused.text,
        confidence=round(fused.confidence, 4),
        formats=list(fused.formats),
        region=region.code if region else None,
        characters=[Character(char=char, confidence=round(share, 4)) for char, share in fused.characters],
        candidates=[Candidate(text=text, confidence=round(share, 4)) for text, share in fused.candidates],
        first=_moment(start + track.first),
        last=_moment(start + track.last),
        rows=looks.rows,
        colour=looks.colour,
        found=round(track.plate.probability, 4),
        moves=moves,
        distance=distance,
        box=[(round(float(x), 1), round(float(y), 1)) for x, y in track.plate.corners],
        sightings=track.seen,
        readings=len(track.readings),
    )


def direction(begin: NDArray[np.float32], end: NDArray[np.float32]) -> tuple[Moves, Distance | None]:
    """Where a plate went from its first corners (4, 2) to its last ones, and whether it came nearer."""
    sizes = [math.sqrt(max(float(np.prod(np.ptp(corners, axis=0))), 1.0)) for corners in (begin, end)]
    width = float(np.ptp(begin[:, 0]) + np.ptp(end[:, 0])) / 2
    dx, dy = (end - begin).mean(0).tolist()
    moves: Moves = "stands"
    if math.hypot(dx, dy) >= MOVED * max(width, 1.0):
        moves = ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ("up" if dy < 0 else "down")
    ratio = sizes[1] / sizes[0]
    return moves, "nears" if ratio > NEARER else "leaves" if ratio < 1 / NEARER else None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
