"""One text of several readings."""

import pytest

from service.video.fusion import Weighed, fuse
from tests.support.video import GRAMMAR, reading


def fused(*readings, weights=None):
    return fuse(
        [Weighed(one, weight) for one, weight in zip(readings, weights or [1.0] * len(readings), strict=True)], GRAMMAR
    )


def test_a_text_that_no_frame_reads_right_is_put_together_of_several():
    first = reading(("京A12845", 0.5), ("京A12345", 0.45))
    second = reading(("沪A12345", 0.5), ("京A12345", 0.45))
    assert fused(first, second).text == "京A12345"


def test_many_unsure_readings_of_the_same_text_are_surer_than_one():
    one = reading(("京A12345", 0.6), ("京A12846", 0.3))
    single, several = fused(one), fused(one, one, one)
    assert single.text == several.text
    assert single.confidence < several.confidence < 1


def test_frames_that_follow_each_other_count_as_a_few_at_most():
    one = reading(("京A12345", 0.6), ("京A12846", 0.3))
    assert fused(*[one] * 50).confidence == pytest.approx(fused(*[one] * 5).confidence)


def test_doubtful_readings_stay_doubtful_however_many_agree():
    assert fused(*[reading(("京A12345", 0.01))] * 10).confidence < 0.05


def test_a_surer_reading_weighs_more():
    right, wrong = reading(("京A12345", 0.9)), reading(("京A12346", 0.9))
    assert fused(wrong, right, weights=(0.2, 0.9)).text == "京A12345"


def test_the_grammar_decides_between_texts_that_are_alike():
    one = reading(("京A1234O", 0.5), ("京A12340", 0.45))
    assert fused(one).text == "京A12340"


def test_a_reading_that_lacks_a_character_is_outvoted():
    whole, short = reading(("京A12345", 0.9)), reading(("京A1234", 0.6))
    both = fused(whole, short, whole, weights=(0.9, 0.6, 0.9))
    assert both.text == "京A12345"
    assert both.confidence > 0.8


def test_the_grammar_decides_between_lengths():
    doubled, right = reading(("京京A12345", 0.5), ("京A12345", 0.3)), reading(("京A12345", 0.3), ("京京A12345", 0.4))
    assert fused(doubled, right).text == "京A12345"


def test_candidates_are_sorted_and_add_up_to_at_most_one():
    found = fused(reading(("京A12345", 0.5), ("京A12346", 0.3), ("沪A12345", 0.1)))
    shares = [share for _, share in found.candidates]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-9
    assert found.text == found.candidates[0].text
    assert [char for char, _ in found.characters] == list(found.text)


def test_readings_without_a_text_say_nothing():
    assert fuse([Weighed(reading(("", 0.9)), 1.0)], GRAMMAR) is None
