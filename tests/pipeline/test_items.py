"""Items on a line of test stages, without an engine: an image becomes none, one or many, a refusal keeps its place."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from service.errors import EmptyImage, TooLate, UndecodableImage
from service.finding.refine import Refined
from service.pipeline.items import Item, Request
from service.pipeline.stages import Each, Stage, begun, line, refused, through, wanted
from service.reading.plates import likeliest
from service.reading.text import Reading


class Asked(Request):
    """A request of these images, and its end."""

    def __init__(self, *images: Any, expires: float = math.inf) -> None:
        self.end: Future[None] = Future()
        super().__init__(images, self.ended, expires=expires)

    def ended(self, error: Exception | None) -> None:
        if error:
            self.end.set_exception(error)
        else:
            self.end.set_result(None)


def read(text: str, confidence: float) -> Reading:
    """A reading of this text."""
    return Reading(text, confidence, (), (), ())


def outcomes(images: Sequence[Any], *stages: Stage) -> list[tuple[Any, ...]]:
    """What a request ends with whose items go through the stages; their last value is the outcome."""
    request = Asked(*images)
    line([refused, *stages])(request.items)
    request.end.result(timeout=0)
    return list(request.outcomes())


def letters(item: Item) -> Sequence[str]:
    """A stage of tests: a text becomes its letters."""
    return item.value


def backwards(items: Iterable[Item]) -> Iterable[Item]:
    return reversed(list(items))


@pytest.mark.parametrize("order", [[], [backwards]])
def test_an_image_becomes_none_one_or_many_items(order):
    split = Each("split", letters)
    assert outcomes(["", "a", "bcd"], split, *order) == [(), ("a",), ("b", "c", "d")]
    assert outcomes(["", ""], split) == [(), ()]
    assert outcomes([]) == []


def test_parts_may_have_parts():
    words = Each("words", lambda item: item.value.split())
    assert outcomes(["ab c", "d", "ef gh"], words, Each("letters", letters), backwards) == [
        ("a", "b", "c"),
        ("d",),
        ("e", "f", "g", "h"),
    ]


def test_a_refusal_is_an_outcome_in_its_place_from_the_start_and_from_any_stage():
    early, late = EmptyImage("nothing came"), UndecodableImage("cannot be read")

    def work(item: Item) -> Sequence[str]:
        if item.value == "x":
            raise late
        return [item.value.upper()]

    assert outcomes([early, "a", "x", "bc", early], Each("work", work), Each("split", letters)) == [
        (early,),
        ("A",),
        (late,),
        ("B", "C"),
        (early,),
    ]
    assert outcomes([early, early]) == [(early,), (early,)]


def test_an_unexpected_error_fails_the_request_and_no_other():
    def work(item: Item) -> Sequence[int]:
        return [1 // item.value]

    request, other = Asked(1, 0, 1), Asked(1)
    line([Each("work", work)])([*request.items, *other.items])
    with pytest.raises(ZeroDivisionError):
        request.end.result(timeout=0)
    assert other.outcomes() == [(1,)]


def test_a_request_is_dropped_until_an_engine_has_begun_with_every_part():
    request = Asked("ab")
    first, second = through([Each("split", letters)], request.items)
    assert request.begin(first)
    assert request.begin(second)
    assert not request.drop()
    request = Asked("ab")
    first, second = through([Each("split", letters)], request.items)
    assert request.begin(first)
    assert request.drop()
    assert not request.begin(second)
    assert [item.value for item in request.items] == [b""]  # a queue that holds it holds no image any more


def test_what_waited_too_long_goes_no_further():
    request = Asked("a", "b", expires=-math.inf)
    assert list(wanted(request.items)) == []
    with pytest.raises(TooLate):
        request.end.result(timeout=0)


def test_what_has_begun_in_time_goes_on():
    request = Asked("a", "b")
    first, second = request.items
    assert list(begun(wanted([first]))) == [first]
    request.expires = -math.inf
    assert list(wanted([second])) == [second]


def test_the_time_of_a_stage_counts_once_for_an_item_that_is_split():
    request = Asked("abc")
    (item,) = request.items
    item.spend("decode", 2.0)
    for part in item.become("abc"):
        part.spend("postprocess", 1.0)
        part.finish(None)
    timing = request.timing(10.0)
    assert (timing.decode, timing.postprocess, timing.queue, timing.total) == (2.0, 3.0, 5.0, 10.0)


def test_what_still_refers_to_a_request_keeps_no_image():
    request = Request([bytes(1000)], lambda error: None)
    (item,) = request.items
    request.free()
    assert (request.items, item.value) == ([], b"")


@pytest.mark.parametrize(("turn", "text"), [(0, "NOX218"), (2, "81ZXON")])
def test_of_a_plate_read_both_ways_text_from_left_to_right_is_believed_more(turn, text):
    corners = np.array([[0, 0], [300, 0], [300, 150], [0, 150]], np.float32)
    plate = Refined(np.roll(corners, turn, 0), 0.9, 2, "white", False, upright=0.7)
    ways = [way for way in plate.ways if way.rows == 2]
    both = [read("NOX218", 0.5), read("81ZXON", 0.6)]
    assert both[likeliest(both, ways)].text == text


@pytest.mark.parametrize(("rows_sure", "text"), [(0.9, "津AD9823"), (0.6, "D9823")])
def test_a_lower_row_alone_is_not_the_text_of_a_plate_of_two_rows(rows_sure, text):
    corners = np.array([[0, 0], [300, 0], [300, 150], [0, 150]], np.float32)
    plate = Refined(corners, 0.9, 2, "yellow", False, rows_sure=rows_sure)
    both = [read("津AD9823", 0.96), read("D9823", 0.998)]
    assert [way.rows for way in plate.ways] == [2, 1]
    assert both[likeliest(both, plate.ways)].text == text


@pytest.mark.parametrize(("upright", "text"), [(0.97, "NOX218"), (0.5, "81ZXON")])
def test_what_the_refiner_takes_to_be_upright_is_believed_more(upright, text):
    plate = Refined(np.array([[0, 0], [520, 0], [520, 110], [0, 110]], np.float32), 0.9, 1, "white", False, upright)
    both = [read("NOX218", 0.5), read("81ZXON", 0.9)]
    assert both[likeliest(both, plate.ways)].text == text


def test_a_way_without_a_text_is_not_the_right_one():
    plate = Refined(np.array([[0, 0], [300, 0], [300, 150], [0, 150]], np.float32), 0.9, 1, "white", False)
    assert likeliest([read("", 0.9), read("AB1234", 0.1)], [plate, plate]) == 1
    assert likeliest([read("", 0.9), read("AB1234", 0.1)], [None, None]) == 1


def test_a_much_surer_reading_outweighs_its_direction():
    corners = np.array([[0, 0], [300, 0], [300, 150], [0, 150]], np.float32)
    plate = Refined(corners, 0.9, 1, "white", False)
    turned = plate._replace(corners=np.roll(corners, 2, 0))
    assert turned.odds(0.97) > plate.odds(0.8) > turned.odds(0.8)
    down = plate._replace(corners=np.roll(corners, 1, 0) @ np.array([[0, 1], [-1, 0]], np.float32))
    assert turned.odds(0.8) < down.odds(0.8) <= plate.odds(0.8)
