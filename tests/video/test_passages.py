"""From frames to one event for each passage."""

import itertools

import pytest

from service import bundled
from service.video.engines import Box, Engines
from service.video.events import direction, event
from service.video.passages import Follower, Rules
from tests.support.photographed import BOTH
from tests.support.photographs import TEXTS
from tests.support.video import HEIGHT, Seeing, plate, reading

TEXT = reading(("京A12345", 0.9))
OTHER = reading(("沪B99999", 0.9))


@pytest.fixture
def seeing():
    return Seeing()


def passed(follower, seeing, *frames):
    """Texts of the passages of frames, each a time and what is shown then."""
    told = list(itertools.chain.from_iterable(follower.see(seeing.frame(time, *shown)) for time, shown in frames))
    return [track.fused.text for track in [*told, *follower.end()]]


def way(text, begin=0.0, y=100, step=60, frames=12):
    """A plate that moves to the right, 5 frames a second."""
    return [(begin + number / 5, [(plate(100 + step * number, y), text)]) for number in range(frames)]


@pytest.mark.parametrize("step", [20, 60, 150, 400])
def test_a_plate_that_passes_is_told_once_whatever_its_speed(seeing, step):
    frames = way(TEXT, step=step, frames=min(12, 1100 // step))
    assert passed(Follower(seeing), seeing, *frames) == ["京A12345"]


def test_it_is_told_when_it_has_left(seeing):
    follower = Follower(seeing)
    told = [
        follower.see(seeing.frame(time, *shown)) for time, shown in [*way(TEXT), *((3 + n / 5, []) for n in range(15))]
    ]
    assert [len(tracks) for tracks in told].index(1) > 12
    assert follower.end() == []


@pytest.mark.parametrize(("silent", "count"), [(1.9, 0), (2.1, 1), (60.0, 1)])
def test_it_is_told_in_time_where_no_frame_follows(seeing, silent, count):
    follower = Follower(seeing)
    frames = way(TEXT)
    for time, shown in frames:
        assert follower.see(seeing.frame(time, *shown)) == []
    assert len(follower.miss(frames[-1][0] + silent)) == count
    assert follower.miss(frames[-1][0] + silent) == []
    assert len(follower.end()) == 1 - count


def test_a_plate_that_is_seen_after_a_short_break_goes_on(seeing):
    follower = Follower(seeing)
    for time in (0.0, 0.2, 5.0):
        assert len(follower.miss(time)) == (time > 2)
        assert follower.see(seeing.frame(time, (plate(300, 300), TEXT))) == []
    assert [track.first for track in follower._tracks.alive] == [0.0]
    assert follower.end() == []


@pytest.mark.parametrize(("after", "told"), [(TEXT, []), (OTHER, ["沪B99999"])])
def test_after_a_long_break_another_plate_may_stand_there(seeing, after, told):
    follower = Follower(seeing)
    for time in (0.0, 0.2):
        follower.see(seeing.frame(time, (plate(300, 300), TEXT)))
    assert [track.fused.text for track in follower.miss(20.0)] == ["京A12345"]
    for time in (20.0, 20.2):
        follower.see(seeing.frame(time, (plate(300, 300), after)))
    assert [track.fused.text for track in follower.end()] == told


def test_two_that_pass_at_once_are_two(seeing):
    both = [(time, [*one, *other]) for (time, one), (_, other) in zip(way(TEXT, y=100), way(OTHER, y=160), strict=True)]
    assert sorted(passed(Follower(seeing), seeing, *both)) == ["京A12345", "沪B99999"]


def test_a_plate_that_stands_is_told_once_and_searched_seldom(seeing):
    follower = Follower(seeing)
    still = plate(300, 300)
    frames = [(number / 5, [(still, TEXT)]) for number in range(1000)]
    assert passed(follower, seeing, *frames) == ["京A12345"]
    assert (follower.looks, follower.frames) == (20, 1000)


def test_a_plate_that_stands_and_is_not_found_again_is_still_there(seeing):
    still, follower = plate(300, 300), Follower(seeing)
    for number in range(100):
        follower.see(seeing.frame(number / 5, (still, TEXT)))
    frame = seeing.frame(20.0, (still, TEXT))
    seeing.shown = []  # the finder misses it
    follower.see(frame)
    assert [track.last for track in follower._tracks.alive] == [20.0]


def test_a_plate_that_stands_is_told_in_time(seeing):
    follower = Follower(seeing, Rules(after_s=10))
    still = plate(300, 300)
    shown = [
        follower.see(seeing.frame(number / 5, (still, TEXT), (plate(900, 100 + number % 2 * 40), OTHER)))
        for number in range(60)
    ]
    assert [number for number, tracks in enumerate(shown) if tracks] == [50]


def test_a_plate_that_was_hidden_while_it_stands_is_the_same(seeing):
    still = plate(300, 300)
    hidden = [(time, [] if 3 < time < 60 else [(still, TEXT)]) for time in (number / 5 for number in range(400))]
    assert passed(Follower(seeing), seeing, *hidden) == ["京A12345"]


def test_the_same_plate_is_told_again_after_a_while(seeing):
    away: list = [(n / 5, []) for n in range(15, 300)]
    assert passed(Follower(seeing), seeing, *way(TEXT), *away, *way(TEXT, 60.0)) == ["京A12345"] * 2
    assert passed(Follower(seeing), seeing, *way(TEXT), *away[:20], *way(TEXT, 7.0)) == ["京A12345"]


def test_a_plate_that_jumps_is_followed_by_its_text(seeing):
    frames = [(0.0, [(plate(100, 100), TEXT)]), (0.2, [(plate(110, 100), TEXT)]), (0.4, [(plate(900, 600), TEXT)])]
    assert passed(Follower(seeing), seeing, *frames) == ["京A12345"]


def test_a_sure_text_is_read_no_more(seeing):
    sure = reading(("京A12345", 0.999))
    passed(Follower(seeing), seeing, *way(sure))
    assert seeing.reads == 3


def test_one_unsure_sighting_is_no_event(seeing):
    assert passed(Follower(seeing), seeing, (0.0, [(plate(100, 100), reading(("京A12345", 0.4)))]), (0.2, [])) == []


def test_two_sure_ones_of_no_confidence_are_none_either(seeing):
    assert passed(Follower(seeing), seeing, *way(reading(("京A12345", 0.01)), frames=2)) == []


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (plate(500, 110), ("right", None)),
        (plate(-300, 90), ("left", None)),
        (plate(100, 400, 200), ("down", "nears")),
        (plate(100, 0, 60), ("up", "leaves")),
        (plate(105, 100), ("stands", None)),
    ],
)
def test_the_direction_is_told(end, expected):
    assert direction(plate(100, 100).corners, end.corners) == expected


def test_an_event_tells_all(seeing):
    follower = Follower(seeing)
    for time, shown in way(TEXT):
        follower.see(seeing.frame(time, *shown))
    (track,) = follower.end()
    told = event("gate", track, 1_700_000_000)
    assert (told.camera, told.text, told.rows, told.colour, told.region) == ("gate", "京A12345", 1, "blue", "cn")
    assert (told.moves, told.distance, told.sightings) == ("right", None, 12)
    assert (told.last - told.first).total_seconds() == pytest.approx(2.2)
    assert told.candidates[0].text == told.text
    assert told.first.timestamp() == 1_700_000_000
    assert track.best.image.shape[0] < HEIGHT / 4
    assert told.crop is None


@pytest.mark.slow
def test_engines_read_plates_of_the_regions_alone():
    height, width = BOTH.shape[:2]
    with Engines(bundled.artifacts(), bundled.VARIANT, bundled.finder(bundled.artifacts()), ("de",)) as engines:
        plates = engines.find(BOTH, Box(0, 0, width, height))
        readings = engines.read(BOTH, plates)
    assert len(readings) == 2
    assert all(reading.region is None or reading.region.code == "de" for reading in readings)
    assert not {reading.text for reading in readings}.intersection(TEXTS.values())
