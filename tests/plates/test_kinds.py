"""Plates as data: alphabet, layouts after GA 36-2018, and texts that fit their formats."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_builder.plates.kinds import (
    ALPHABET,
    DIGITS,
    GRAMMAR,
    LETTERS,
    PLATES,
    PROVINCES,
    SPECIAL,
    Plate,
)
from model_builder.render.plate import draw_text

PLATE = {plate.name: plate for plate in PLATES}
kinds = pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)


def test_the_alphabet():
    assert len(PROVINCES) == 31
    assert len(SPECIAL) == 7
    assert set(SPECIAL) == set("港澳学警使领挂")
    assert len(LETTERS) == 24
    assert not set(LETTERS) & set("IO")
    assert set(ALPHABET) == set(PROVINCES + SPECIAL + DIGITS + LETTERS + "O")
    assert len(ALPHABET) == len(set(ALPHABET)) == 73


def test_the_letter_o_stands_on_police_plates_only_and_only_in_second_place():
    places = {
        (plate.name, position)
        for plate in PLATES
        for template in plate.templates
        for position, allowed in enumerate(template)
        if "O" in allowed
    }
    assert places == {("cn-police", 1)}


def test_the_grammar_names_families_of_texts_and_no_colours():
    names = [entry.name for entry in GRAMMAR.formats]
    assert names == list(dict.fromkeys(plate.family or plate.name for plate in PLATES))
    assert not [name for name in names if {"blue", "yellow", "green", "white", "black"} & set(name.split("-"))]
    templates = [template for entry in GRAMMAR.formats for template in entry.templates]
    assert set(templates) == {template for plate in PLATES for template in plate.templates}
    assert len(set(templates)) == len(templates)  # so that no two families are the same texts
    assert len(PLATE) == len(PLATES)
    assert {character for template in templates for allowed in template for character in allowed} == set(ALPHABET)


@kinds
def test_a_template_has_a_position_for_each_slot(plate: Plate):
    assert plate.templates
    assert {len(template) for template in plate.templates} == {len(plate.slots)}
    assert all(allowed for template in plate.templates for allowed in template)


@kinds
def test_slots_lie_inside_the_plate_and_apart(plate: Plate):
    for slot in plate.slots:
        assert 0 < slot.x < slot.x + slot.width < plate.width
        assert 0 < slot.y < slot.y + slot.height < plate.height
    for a, b in itertools.combinations(plate.slots, 2):
        assert a.x + a.width <= b.x or a.y + a.height <= b.y  # in reading order: further right, or in a lower row


@kinds
def test_the_dot_is_between_characters(plate: Plate):
    if plate.dot is None:
        return
    x, y = plate.dot
    assert 0 < y < plate.height
    assert not any(slot.x < x < slot.x + slot.width for slot in plate.slots)


@kinds
def test_colours_are_bytes_and_ink_stands_out(plate: Plate):
    assert plate.share > 0
    for colours in plate.colours:
        assert all(0 <= value <= 255 for color in (colours.top, colours.bottom, colours.ink) for value in color)
        for paper in (colours.top, colours.bottom):
            assert max(abs(a - b) for a, b in zip(paper, colours.ink, strict=True)) > 80


def test_ordinary_plates_are_laid_out_after_ga_36():
    blue = PLATE["cn-blue"]
    assert (blue.width, blue.height) == (440, 140)
    assert [slot.x for slot in blue.slots] == [15.5, 72.5, 151.5, 208.5, 265.5, 322.5, 379.5]
    assert {(slot.y, slot.width, slot.height) for slot in blue.slots} == {(25, 45, 90)}
    gaps = [b.x - a.x - a.width for a, b in itertools.pairwise(blue.slots)]
    assert gaps == [12, 34, 12, 12, 12, 12]
    assert blue.dot is not None
    assert blue.dot[0] == (blue.slots[1].x + 45 + blue.slots[2].x) / 2


def test_new_energy_plates_are_laid_out_after_ga_36():
    green = PLATE["cn-green"]
    assert (green.width, green.height) == (480, 140)
    assert len(green.slots) == 8
    assert green.slots[0].x == 15.5
    assert green.width - green.slots[-1].x - green.slots[-1].width == 15.5
    assert [slot.width for slot in green.slots] == [45, *[43] * 7]
    assert {(slot.y, slot.height) for slot in green.slots} == {(25, 90)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("皖A12345", "cn-standard"),
        ("京AD12345", "cn-new-energy"),
        ("京A12345D", "cn-new-energy"),
        ("京A1234警", "cn-police"),
        ("京O12345", "cn-police"),
        ("京A1234学", "cn-learner"),
        ("京A1234挂", "cn-trailer"),
        ("粤Z1234港", "cn-hongkong-macau"),
        ("粤Z1234澳", "cn-hongkong-macau"),
        ("沪A1234领", "cn-consulate"),
        ("使123456", "cn-embassy"),
        ("京I12345", None),
        ("京A1234O", None),
        ("京A123456", None),
        ("京Z1234港", None),
        ("京A1234", None),
        ("A123456", None),
    ],
)
def test_the_grammar_names_the_family_of_a_text(text, name):
    assert GRAMMAR.formats_of(text) == ((name,) if name else ())


@given(st.integers(0, 2**64), st.sampled_from(PLATES))
def test_a_drawn_text_fits_the_format_of_its_plate(seed, plate):
    text = draw_text(random.Random(seed), plate)
    assert (plate.family or plate.name) in GRAMMAR.formats_of(text)


def test_drawn_texts_use_every_character_that_their_plate_allows():
    rng = random.Random(0)
    texts = [draw_text(rng, PLATE["cn-police"]) for _ in range(3000)]
    assert set("".join(texts)) == set(PROVINCES + LETTERS + DIGITS + "O警")
