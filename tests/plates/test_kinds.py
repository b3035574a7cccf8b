"""Plates as data: alphabet, layouts after GA 36-2018, and texts that fit their formats."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_builder.plates import MAX_CHARACTERS
from model_builder.plates.kinds import (
    ALPHABET,
    CHINA,
    DIGITS,
    DRILL,
    GRAMMAR,
    LETTERS,
    PLATES,
    PROVINCES,
    SPECIAL,
    Plate,
    beside,
    load,
    named,
    shares,
)
from model_builder.render.plate import draw_text
from model_builder.train.loop import TrainConfig
from service.artifact import Looks
from service.reading.prior import Prior

PLATE = {plate.name: plate for plate in PLATES}
kinds = pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)


def test_the_alphabet():
    assert len(PROVINCES) == 31
    assert len(SPECIAL) == 7
    assert set(SPECIAL) == set("港澳学警使领挂")
    assert len(LETTERS) == 26
    assert set(ALPHABET) == set(PROVINCES + SPECIAL + DIGITS + LETTERS)
    assert len(ALPHABET) == len(set(ALPHABET)) == 74


def test_in_china_the_letter_o_stands_on_police_plates_only_and_only_in_second_place():
    places = {
        (plate.name, position)
        for plate in CHINA
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
    assert len(Prior(GRAMMAR.formats, [*ALPHABET, ""]).follows) < 2500  # states, which the server holds in memory
    assert len(PLATE) == len(PLATES)
    assert {character for template in templates for allowed in template for character in allowed} == set(ALPHABET)


@kinds
def test_a_template_has_a_position_for_each_slot(plate: Plate):
    assert plate.templates
    if plate.slots:
        assert {len(template) for template in plate.templates} == {len(plate.slots)}
    assert all(len(template) <= MAX_CHARACTERS for template in plate.templates)
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
        ("京Z1234港", None),
        ("京A1234", None),
        ("A123456", None),
    ],
)
def test_the_grammar_names_the_family_of_a_text(text, name):
    assert tuple(format for format in GRAMMAR.formats_of(text) if format.startswith("cn-")) == ((name,) if name else ())


@pytest.mark.parametrize(
    ("text", "name", "fits"),
    [
        ("AB12CDE", "gb", True),
        ("AI12CDE", "gb", False),  # no I in the letters of a place
        ("1234BCD", "es", True),
        ("1234BAD", "es", False),
        ("AA1234BB", "ua", True),
        ("AD1234BB", "ua", False),
        ("MUX123", "de", True),
        ("ABC1D23", "mercosur-br", True),
        ("ABC1O23", "mercosur-br", False),
    ],
)
def test_a_country_tells_which_characters_a_position_allows(text, name, fits):
    assert (name in GRAMMAR.formats_of(text)) is fits


def test_more_than_a_third_of_a_training_is_chinese_and_nearly_half_with_the_drill():
    china = sum(shares(CHINA)) / sum(shares(PLATES))
    drill = TrainConfig().drill
    assert china > 1 / 3
    assert drill + (1 - drill) * china > 0.45


def test_umlauts_are_drawn_and_read_as_their_letters():
    assert any("Ä" in piece.allowed for text in PLATE["de"].texts for piece in text)
    assert not {letter for template in PLATE["de"].templates for allowed in template for letter in allowed} - set(
        ALPHABET
    )


def test_the_drill_has_characters_of_china_only():
    assert set(draw_text(random.Random(1), DRILL)) <= set(PROVINCES + SPECIAL)


def test_kinds_are_found_by_name_and_by_region():
    assert [plate.name for plate in named("gb-two-rows")] == ["gb-two-rows"]
    assert [plate.name for plate in named("gb")] == ["gb", "gb-two-rows"]
    with pytest.raises(ValueError, match="no kind is called 'xx'; there are"):
        named("xx")


KIND = """
region = "xx"
share = 1
[slots]
row = [[5, 5], [55, 5]]
far = [[5, 5], [55, 5], [105, 5], [155, 5], [500, 5]]
steps = [[5, 5], [55, 10], [105, 15], [155, 5], [205, 5]]
[[kind]]
name = "xx"
size = [520, 110]
characters = [[48, 78]]
texts = ["[A-Z]{2} [0-9]{3}"]
colours = ["black on white"]
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "[A-Z]{2}",
            "[A-ZÆ]{2}",
            "xx: no glyph draws 'Æ': add its strokes to a file of model_builder/plates/glyphs",
        ),
        (
            "[A-Z]{2}",
            "[A-ZÄ]{2}",
            r"xx: 'Ä' is not in the alphabet: name the character that it is read as in \[reads\]",
        ),
        ("[A-Z]{2}", "[A-Z]{2", "what begins at '{2 ' is not understood|is not understood"),
        ("[A-Z]{2}", "<city>", r"there is no set of characters <city>: define it in \[sets\]"),
        ("black on white", "black on whit", "xx: no colour is called 'whit' in 'black on whit'; there are white, "),
        ("size = [520, 110]", "sise = [520, 110]", "kind.0.size: Field required|kind.0.sise: Extra inputs"),
        ("characters = [[48, 78]]", "", "xx: it needs either slots or characters"),
        ("{2} [0-9]", "{2}/[0-9]", "xx: it has 1 rows of characters and a text of 2"),
        ("share = 1", "share = ", "Invalid value"),
        ("[A-Z]{2}", "[Z-A]{2}", "xx: pattern .*: the range Z-A goes backwards"),
        (" [0-9]", "@{3,1}[0-9]", "xx: pattern .*: a count is"),
        ("[0-9]{3}", "[0-9]{10}", "xx: a text of up to 12 characters is too long: it has at most 11"),
        ("[0-9]{3}", "[0-9]{0,10}", "xx: a text of up to 12 characters is too long"),
        ("[A-Z]{2} [0-9]{3}", "[0-9]{0,3}@", "xx: a text has a row that may be without a character"),
        ("{2} [0-9]", "{2}/@/[0-9]", "xx: a text has a row that may be without a character"),
        ("[520, 110]", "[-520, 0]", "kind.0.size.0: Input should be greater than"),
        ("[520, 110]", "[520, 0]", "kind.0.size.1: Input should be greater than"),
        ("[520, 110]", "[520, inf]", "kind.0.size.1: Input should be a finite number"),
        ("[520, 110]", "[520, 1e9]", "kind.0.size.1: Input should be less than"),
        ("[48, 78]", "[48, 0]", "kind.0.characters.0.1: Input should be greater than"),
        ("[48, 78]", "[48, 178]", "xx: its characters are larger than the plate"),
        ("[[48, 78]]", "[[48, 7], [48, 7], [48, 7]]", "kind.0.characters: Tuple should have at most 2 items"),
        ("[[48, 78]]", "[[48, 78]]\nshare = 0", "the share of every kind is 0"),
        ("[[48, 78]]", "[[48, 78]]\ntolerance = 1", "kind.0.tolerance: Input should be less than"),
        ("[[48, 78]]", "[[48, 78]]\ntolerance = nan", "kind.0.tolerance: Input should be a finite number"),
        ("[[48, 78]]", "[[48, 78]]\nspace = -1", "kind.0.space: Input should be greater than"),
        ("[[48, 78]]", "[[48, 78]]\ngap = 3", "kind.0.gap: Input should be less than"),
        ("[[48, 78]]", "[[48, 78]]\nfamily = 'Ünï,x'", "kind.0.family"),
        ("[[48, 78]]", "[[48, 78]]\nstickers = -1", "kind.0.stickers: Input should be greater than"),
        ("[[48, 78]]", "[[48, 78]]\nframe = 2", "kind.0.frame: Input should be less than"),
        ("[[48, 78]]", "[[48, 78]]\nfaces = []", "kind.0.faces: Tuple should have at least 1 item"),
        ("[[48, 78]]", "[[48, 78]]\nseals = []", "kind.0.seals: Tuple should have at least 1 item"),
        ("[[48, 78]]", "[[48, 78]]\nbands = [{ size = 0 }]", "kind.0.bands.0.size: Input should be greater than"),
        (
            "[[48, 78]]",
            "[[48, 78]]\nbands = [{ size = 500 }]",
            "xx: its bands and words leave less than a tenth of its w",
        ),
        ("[[48, 78]]", "[[48, 78]]\nbands = [{ letters = ['[A'] }]", "xx: pattern '\\[A'"),
        ("[[48, 78]]", "[[48, 78]]\nbands = [{ letters = ['A{0,1}'] }]", "xx: the letters .* of a band may be none"),
        ("[[48, 78]]", "[[48, 78]]\nbands = [{ emblem = [] }]", "kind.0.bands.0.emblem: Tuple should have at least 1"),
        ("[[48, 78]]", "[[48, 78]]\nwords = [{ texts = [] }]", "kind.0.words.0.texts: Tuple should have at least 1"),
        ("[[48, 78]]", "[[48, 78]]\nwords = [{ texts = [' '] }]", "kind.0.words.0.texts.0: String should match"),
        ("[[48, 78]]", "[[48, 78]]\nwords = [{ texts = ['A'], height = 99 }]", "leave less than a tenth of its height"),
        ("[[48, 78]]", "[[48, 78]]\nwords = [{ texts = ['A'], height = 99, place = 'side' }]", "of its height"),
        ("share = 1", "share = 1\nreads = { A = 'BC' }", "reads.A: String should have at most 1 character"),
        ("row = [[5, 5], [55, 5]]", "row = [[1]]", "slots.row.0"),
        ("characters = [[48, 78]]", "slots = 'row'", "xx: it has 2 slots and a text of 5 characters"),
        ("characters = [[48, 78]]", "slots = 'far'", "xx: the slot at 500, 5 ends outside of the plate"),
        ("characters = [[48, 78]]", "slots = 'steps'", "xx: its slots have more than two tops"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(tmp_path, before, after, message):
    assert before in KIND
    path = tmp_path / "xx.toml"
    path.write_text(KIND.replace(before, after))
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_two_kinds_of_a_file_with_the_same_name_are_refused(tmp_path):
    path = tmp_path / "xx.toml"
    path.write_text(KIND + KIND[KIND.index("[[kind]]") :])
    with pytest.raises(ValueError, match="two kinds are called xx") as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_a_kind_with_the_name_of_another_countrys_is_told_with_its_file(tmp_path):
    path = tmp_path / "xx.toml"
    path.write_text(KIND)
    assert len(beside([path])) == len(PLATES) + 1
    for text, paths in ((KIND.replace('"xx"', '"gb"'), [path]), (KIND, [path, path])):
        path.write_text(text)
        with pytest.raises(ValueError, match="with those that are there already") as caught:
            beside(paths)
        assert str(caught.value).startswith(str(path))


@given(st.integers(0, 2**64), st.sampled_from(PLATES))
def test_a_drawn_text_fits_the_format_of_its_plate(seed, plate):
    text = draw_text(random.Random(seed), plate)
    assert (plate.family or plate.name) in GRAMMAR.formats_of(text)


def test_drawn_texts_use_every_character_that_their_plate_allows():
    rng = random.Random(0)
    texts = [draw_text(rng, PLATE["cn-police"]) for _ in range(3000)]
    assert set("".join(texts)) == set(PROVINCES + LETTERS + DIGITS + "警") - {"I"}


def test_the_grammar_tells_of_each_kind_its_country_rows_and_colours():
    kinds = {kind.name: kind for entry in GRAMMAR.formats for kind in entry.kinds}
    assert set(kinds) == {plate.name for plate in PLATES}
    assert (kinds["cn-blue"].region, kinds["cn-blue"].rows, kinds["cn-blue"].colours) == ("cn", 1, ("blue",))
    assert (kinds["gb-two-rows"].rows, kinds["gb-two-rows"].colours) == (2, ("white", "yellow"))
    assert kinds["latin"].region == ""
    assert {"de", "fr", "gb", "it", "es", "nl", "pl", "sk", "ro", "ua", "us", "br", "cn"} <= set(GRAMMAR.regions)


@pytest.mark.parametrize(
    ("text", "looks", "region"),
    [
        ("京A12345", Looks(1, "blue"), "cn"),
        ("AB12CDE", Looks(1, "yellow"), "gb"),
        ("BRA2E19", Looks(1, "white"), "br"),
        ("ABC1234", Looks(1, "other", 3.1), "br"),
        ("ABC1234", Looks(1, "white", 4.5), "cz"),
        ("ABC1234", Looks(1, "white", 2.0), "us"),
    ],
)
def test_a_country_is_told_by_its_texts(text, looks, region):
    found = GRAMMAR.region(text, looks, GRAMMAR.formats_of(text))
    assert found is not None
    assert found.code == region
    assert found.probability > 0.3
