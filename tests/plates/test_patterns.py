"""Patterns of texts: what they allow, and what is drawn of them."""

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_builder.plates import patterns


def templates(pattern: str, **sets: str) -> list[tuple[str, ...]]:
    return [template for template, _ in patterns.templates(patterns.parse(pattern, sets), {"Ü": "U"})]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("A7", [("A", "7")]),
        ("[A-C]1", [("ABC", "1")]),
        ("[A-C]{2}", [("ABC", "ABC")]),
        ("[AB]{1,2}-[0-1]", [("AB", "01"), ("AB", "AB", "01")]),
        ("<end>{2} 1@2/3.4:5", [("XY", "XY", "1", "2", "3", "4", "5")]),
        ("[A-CÜ]", [("ABCU",)]),
    ],
)
def test_templates_have_a_position_for_each_character(pattern, expected):
    assert templates(pattern, end="XY") == expected


def test_a_set_of_words_gives_one_of_them():
    sets = {"county": "B AB AR  CJ\n BÜ"}
    assert templates("<county>-1", **sets) == [("B", "1"), ("A", "BR", "1"), ("C", "J", "1"), ("B", "U", "1")]
    pieces = patterns.parse("<county>1", sets)
    drawn = {"".join(item.symbol for item in patterns.draw(random.Random(seed), pieces)) for seed in range(90)}
    assert drawn == {"B1", "AB1", "AR1", "CJ1", "BÜ1"}
    with pytest.raises(ValueError, match="a set of words has no count"):
        patterns.parse("<county>{2}", sets)


def test_a_drawn_text_has_its_gaps_marks_seals_and_rows():
    items = patterns.draw(random.Random(0), patterns.parse("A 1-[B]@/2", {}))
    assert [item.what for item in items] == [
        "character",
        "gap",
        "character",
        "mark",
        "character",
        "seal",
        "row",
        "character",
    ]
    assert "".join(item.symbol for item in items if item.what == "character") == "A1B2"


def test_lengths_are_drawn_between_the_bounds():
    pieces = patterns.parse("[0-9]{2,4}", {})
    assert {len(patterns.draw(random.Random(seed), pieces)) for seed in range(60)} == {2, 3, 4}


def test_characters_that_are_easily_confused_are_drawn_more_often():
    pieces = patterns.parse("[A-Z]{8}", {})
    rng = random.Random(0)
    drawn = [item.symbol for _ in range(400) for item in patterns.draw(rng, pieces)]
    assert drawn.count("O") > 1.25 * drawn.count("T")


@pytest.mark.parametrize("pattern", ["", "[A-Z", "A{x}", "{2}", "A]"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="is not understood"):
        patterns.parse(pattern, {})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[Z-A]{2}", r"the range Z-A goes backwards: write A-Z"),
        ("<none>", "<none>: the set has no characters"),
        ("<blank>", "<blank>: the set has no characters"),
        ("<apart>", "'A-H' is no word: a set of characters with ranges has no spaces"),
        ("<back>", "the range 9-0 goes backwards: write 0-9"),
        ("A{3,1}@", "a count is a whole number from 1 on, or goes from a lower one to a higher one"),
        ("A{0}", "a count is"),
        ("A@{2,1}", "a count is"),
        ("A{100}", "what begins at '.100.' is not understood"),
        ("A/{2}B", "a row ends once"),
        ("A/{0,1}B", "a row ends once"),
    ],
)
def test_a_set_or_a_count_that_draws_nothing_is_refused_with_its_pattern(pattern, message):
    with pytest.raises(ValueError, match=message) as caught:
        patterns.parse(pattern, {"none": "", "blank": "  ", "apart": "A-H J-Z", "back": "9-0"})
    assert str(caught.value).startswith(f"pattern {pattern!r}: ")


def texts(templates: Iterable[tuple[str, ...]]) -> set[str]:
    """All texts that templates allow."""
    return {"".join(text) for template in templates for text in itertools.product(*template)}


def test_fewest_templates_allow_the_same_texts():
    found = [("AB", "1"), ("A", "1"), ("AB", "2"), ("C", "12"), ("AB", "1", "1"), ("X", "9")]
    fewer = patterns.fewest(found)
    assert texts(fewer) == texts(found)
    assert len(fewer) == 3


CHARACTERS = st.sets(st.sampled_from("ABC12"), min_size=1).map(lambda found: "".join(sorted(found)))


@given(st.lists(st.lists(CHARACTERS, min_size=1, max_size=3).map(tuple), max_size=12))
def test_fewest_templates_are_no_more_and_allow_no_other_texts(found):
    fewer = patterns.fewest(found)
    assert texts(fewer) == texts(found)
    assert len(fewer) <= len(set(found))
    assert patterns.fewest(fewer) == fewer


def test_templates_are_as_frequent_as_they_are_drawn():
    found = list(patterns.templates(patterns.parse("<county>[0-9]{1,2}", {"county": "B AB AR"}), {}))
    assert found == [
        (("B", "0123456789"), pytest.approx(1 / 6)),
        (("B", "0123456789", "0123456789"), pytest.approx(1 / 6)),
        (("A", "BR", "0123456789"), pytest.approx(1 / 3)),
        (("A", "BR", "0123456789", "0123456789"), pytest.approx(1 / 3)),
    ]
    merged = [("AB", "01"), ("A", "0"), ("AB",)]
    shares = [(("A", "0"), 1.0), (("B", "01"), 2.0), (("A", "1"), 1.0)]
    assert patterns.weights(merged, shares) == (0.75, 0.25, 0)
    assert patterns.weights(merged, [(("A", "0"), 0.0)]) == ()


def test_a_much_narrower_template_stays_beside_one_that_allows_its_texts():
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    wide, narrow, near = (letters, letters, letters), ("A", "B", letters), (letters, letters, "ABC")
    assert patterns.fewest([wide, narrow, near]) == (wide, narrow)
