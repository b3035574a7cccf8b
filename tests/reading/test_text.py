"""Logits to texts: CTC decoding against an oracle that enumerates every path."""

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.artifact import Format, Grammar, Kind, Looks
from service.reading import ctc, text
from service.reading.prior import OTHER, Prior
from service.reading.text import Reader, Reading

NO_GRAMMAR = Grammar(formats=())

small_logits = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(2, 4)),
    elements=st.floats(-8, 8, width=32),
)


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def oracle(logits: NDArray[np.floating], blank: int) -> dict[tuple[int, ...], float]:
    """Probability of every labelling, by enumerating all C ** T paths."""
    odds = np.exp(np.asarray(logits, np.float64))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        totals[collapse(path, blank)] += float(np.prod([probabilities[t, c] for t, c in enumerate(path)]))
    return totals


def uniform(logits: NDArray[np.floating]) -> Prior:
    """A prior under which all texts are equal, so that a posterior is the network's probability."""
    return Prior((), [""] * logits.shape[1])


@given(small_logits, st.data())
def test_the_search_finds_every_labelling_in_order_with_the_sum_over_all_its_paths(logits, data):
    blank = data.draw(st.integers(0, logits.shape[1] - 1))
    expected = oracle(logits, blank)
    found = list(ctc.Search(ctc.softmax(logits), blank, uniform(logits), patience=100_000))
    labellings = [labels for labels, _ in found]
    assert len(set(labellings)) == len(labellings)
    rounding = 1e-15  # what is left of a probability of 1 is not known better
    assert {labels for labels, probability in expected.items() if probability > rounding} <= {*labellings}
    np.testing.assert_allclose([p for _, p in found], [expected[labels] for labels, _ in found], rtol=1e-9)
    assert all(a >= b * (1 - 1e-9) for (_, a), (_, b) in itertools.pairwise(found))


@given(small_logits, st.integers(0, 10))
def test_out_of_patience_it_gives_what_it_found_and_exactly(logits, patience):
    expected = oracle(logits, blank=0)
    found = list(ctc.Search(ctc.softmax(logits), 0, uniform(logits), patience))
    assert 1 <= len(set(found)) == len(found) <= patience + 1
    np.testing.assert_allclose([p for _, p in found], [expected[labels] for labels, _ in found], rtol=1e-9)
    assert all(a >= b * (1 - 1e-9) for (_, a), (_, b) in itertools.pairwise(found))


def test_what_no_path_reads_is_not_found():
    logits = np.array([[9, 0, -1e30], [8, 0, -1e30]])
    (first, p), *others = ctc.Search(ctc.softmax(logits), 2, uniform(logits))
    assert (first, p) == ((0,), pytest.approx(1, abs=1e-3))  # for two of it there would have to be a blank
    assert {labels for labels, _ in others} == {(1,), (0, 1), (1, 0)}


@given(small_logits)
def test_read_finds_the_best_text_and_its_exact_probability(logits):
    alphabet = "abc"[: logits.shape[1] - 1]
    blank = len(alphabet)
    expected = {"".join(alphabet[i] for i in k): p for k, p in oracle(logits, blank).items()}
    reading = Reader(alphabet, blank, NO_GRAMMAR).read(logits, top_k=3)
    for candidate in reading.candidates:
        assert candidate.confidence == pytest.approx(expected[candidate.text], rel=1e-9)
    assert reading.confidence == pytest.approx(max(expected.values()), rel=1e-9)
    assert (reading.text, reading.confidence) == (reading.candidates[0].text, reading.candidates[0].confidence)
    assert [c.char for c in reading.characters] == list(reading.text)


@given(small_logits)
def test_character_confidences_come_from_the_best_path(logits):
    blank = logits.shape[1] - 1
    probabilities = ctc.softmax(logits)
    paths = itertools.product(range(logits.shape[1]), repeat=len(logits))
    frames = np.arange(len(logits))
    by_labels: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = defaultdict(list)
    for path in paths:
        by_labels[collapse(path, blank)].append((float(probabilities[frames, list(path)].prod()), path))
    for labels, options in by_labels.items():
        top = max(p for p, _ in options)
        allowed = []
        for _, path in (option for option in options if option[0] >= top * (1 - 1e-9)):
            runs = [list(run) for label, run in itertools.groupby(frames, key=lambda t: path[t]) if label != blank]
            allowed.append([max(probabilities[t, path[t]] for t in run) for run in runs])
        seen = [place.sure for place in ctc.Search(probabilities, blank, uniform(logits)).align(labels)]
        assert any(np.allclose(seen, option, rtol=1e-6) for option in allowed)


@given(hnp.arrays(np.float32, (3, 6, 4), elements=st.floats(-8, 8, width=32)))
def test_greedy_is_the_collapsed_best_path(logits):
    expected = ["".join("abc"[i] for i in collapse(tuple(row.argmax(axis=1)), 3)) for row in logits]
    assert text.greedy(logits, "abc", 3) == expected


@given(small_logits, st.data())
def test_what_is_allowed_is_found_with_its_exact_probability(logits, data):
    classes = logits.shape[1]
    blank = data.draw(st.integers(0, classes - 1))
    chars = ["" if label == blank else chr(ord("a") + label) for label in range(classes)]
    slot = st.lists(st.sampled_from([char for char in chars if char]), min_size=1, unique=True).map("".join)
    texts = st.lists(st.lists(slot, min_size=1, max_size=4).map(tuple), min_size=1, max_size=3, unique=True)
    names = "xyz"
    formats = [Format(name=name, templates=(one,)) for name, one in zip(names, data.draw(texts), strict=False)]
    part = data.draw(st.lists(st.sampled_from(formats), min_size=1, unique_by=lambda one: one.name))
    only = Grammar(formats=tuple(part))
    expected = {
        found: p
        for found, p in oracle(logits, blank).items()
        if found and only.formats_of("".join(chars[label] for label in found))
    }
    found = ctc.fitting(ctc.softmax(logits), blank, Prior(formats, chars).allowed(part), beam=1000)
    assert sorted(labels for labels, _ in found) == sorted(expected)
    np.testing.assert_allclose([p for _, p in found], [expected[labels] for labels, _ in found], rtol=1e-9)
    assert all(a >= b for (_, a), (_, b) in itertools.pairwise(found))


def spelled(text: str, alphabet: str, doubts: dict[int, str]) -> NDArray[np.float64]:
    """Logits of a model that sees `text`, and in some places hardly less of another character."""
    logits = np.zeros((2 * len(text) + 1, len(alphabet) + 1))
    logits[::2, -1] = 12
    for position, char in enumerate(text):
        logits[2 * position + 1, alphabet.index(char)] = 12
        if other := doubts.get(position):
            logits[2 * position + 1, alphabet.index(other)] = 4
    return logits


def test_held_to_formats_only_texts_of_them_are_read_however_improbable():
    alphabet = "京ABO0"
    grammar = Grammar(formats=(Format(name="x", templates=(("京", "AB", "0", "0"),)),))
    reader, logits = Reader(alphabet, 5, grammar), spelled("京AO0", alphabet, {1: "B"})
    assert reader.read(logits).text == "京AO0"  # a text that fits is too improbable
    reading = reader.read(logits, 5, grammar)
    assert (reading.text, reading.formats) == ("京A00", ("x",))
    assert reading.confidence < 0.01
    assert [candidate.text for candidate in reading.candidates] == ["京A00", "京B00"]
    assert [character.char for character in reading.characters] == list("京A00")
    nothing = reader.read(logits[:3], 1, grammar)  # too few frames for four characters
    assert (nothing.text, nothing.confidence, nothing.candidates) == ("", 0, ())


def test_held_to_formats_a_text_is_as_sure_as_without():
    alphabet = "京AB01"
    one, other = (
        Format(name="x", templates=(("京", "AB", "01", "01"),)),
        Format(name="y", templates=(("京", "AB", "1"),)),
    )
    reader, logits = Reader(alphabet, 5, Grammar(formats=(one, other))), spelled("京A10", alphabet, {1: "B", 3: "1"})
    logits[3] *= 0.3  # the network is not sure of the second character
    free, held = reader.read(logits, 10), reader.read(logits, 10, Grammar(formats=(one,)))
    assert (held.text, held.formats, held.characters) == (free.text, free.formats, free.characters)
    sure = dict(free.candidates)
    shared = [candidate for candidate in held.candidates if candidate.text in sure]
    assert len(shared) >= 3
    for candidate in shared:
        assert candidate.confidence == pytest.approx(sure[candidate.text], rel=1e-9)


def test_of_several_views_the_text_that_none_of_them_rules_out_is_read():
    alphabet = "AB01"
    reader = Reader(alphabet, 4, NO_GRAMMAR)
    views = [spelled("A10", alphabet, {1: "0", 2: "1"}), spelled("A00", alphabet, {}), spelled("A00", alphabet, {})]
    views[0][3] *= 0.2  # the first is rather sure of a 1, not of the end
    views[1][3] *= 0.05
    together = reader.read(np.stack(views), 3)
    assert [reader.read(view).text for view in views] == ["A10", "A00", "A00"]
    assert together.text == "A00"
    assert [character.char for character in together.characters] == list("A00")
    assert sum(candidate.confidence for candidate in together.candidates) <= 1
    assert reader.read(np.stack([views[2]] * 3)).confidence == pytest.approx(
        reader.read(views[2]).confidence, abs=(text.TEXTS + 1) * text.LEAST
    )


def test_of_several_views_neither_the_number_of_texts_nor_formats_change_a_confidence():
    alphabet = "京AB01"
    one, other = (
        Format(name="x", templates=(("京", "AB", "01", "01"),)),
        Format(name="y", templates=(("京", "AB", "1"),)),
    )
    reader = Reader(alphabet, 5, Grammar(formats=(one, other)))
    views = np.stack([spelled("京A10", alphabet, {1: "B"}), spelled("京B11", alphabet, {1: "A"})])
    views[:, 3] *= 0.3
    most = reader.read(views, 10)
    sure = dict(most.candidates)
    held = reader.read(views, 10, Grammar(formats=(one,)))
    assert 4 <= len(most.candidates) <= 6  # what either view holds to be probable
    assert sum(sure.values()) <= 1
    for count in (1, 4):
        assert reader.read(views, count).candidates == most.candidates[:count]
        assert reader.read(views, count, Grammar(formats=(one,))).candidates == held.candidates[:count]
    shared = [candidate for candidate in held.candidates if candidate.text in sure]
    assert len(shared) >= 2
    for candidate in shared:
        assert candidate.confidence == pytest.approx(sure[candidate.text])


def test_of_several_views_what_they_do_not_show_is_held_to_formats_by_its_probability():
    alphabet = "京AB01"
    only = Grammar(formats=(Format(name="y", templates=(("B", "01", "01"),)),))
    seen = Format(name="x", templates=(("京", "AB", "01", "01"),))
    reader = Reader(alphabet, 5, Grammar(formats=(seen, *only.formats)))
    views = np.stack([spelled("京B10", alphabet, {}), spelled("京B10", alphabet, {3: "1"})])
    views[:, 3] *= 0.5
    held = reader.read(views, 3, only)
    assert [candidate.text for candidate in held.candidates][:2] == ["B10", "B11"]
    assert held.formats == ("y",)
    sures = [candidate.confidence for candidate in held.candidates]
    assert sures == sorted(sures, reverse=True)
    assert text.LEAST > sures[0] > sures[1]
    assert reader.read(views, 1, only).text == "B10"


SMALL = Grammar(
    formats=(
        Format(name="twice", templates=(("ab", "b"), ("b",))),
        Format(name="other", templates=(("ab", "ab"),)),
    )
)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-8, 8, width=32)))
def test_confidence_is_the_posterior_by_bayes_rule_from_below_and_orders_the_candidates(logits):
    products = {"".join("abc"[label] for label in labels): p for labels, p in oracle(logits, blank=3).items()}
    for name in products:
        products[name] *= 1 if not name or SMALL.formats_of(name) else OTHER
    evidence = sum(products.values())
    candidates = Reader("abc", 3, SMALL).read(logits, top_k=10).candidates
    best = sorted(products.values(), reverse=True)[: len(candidates)]
    np.testing.assert_allclose(
        [products[text] for text, _ in candidates], best, rtol=1e-9
    )  # exactly the best, in order
    shares = [confidence / products[text] for text, confidence in candidates]
    assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-9)  # one evidence for all
    assert shares[0] <= 1 / evidence * (1 + 1e-9)
    assert sum(confidence for _, confidence in candidates) <= 1 + 1e-9


@settings(max_examples=20)
@given(hnp.arrays(np.float32, (12, 4), elements=st.floats(-8, 8, width=32)))
def test_a_reading_does_not_depend_on_how_many_candidates_are_asked_for(logits):
    reader = Reader("abc", 3, SMALL)
    whole = reader.read(logits, top_k=10)
    assert whole.candidates[0] == (whole.text, whole.confidence)
    for top_k in (1, 3, 9):
        assert reader.read(logits, top_k).candidates == whole.candidates[:top_k]
        assert reader.read(logits, top_k).confidence == whole.confidence


def test_an_improbable_text_does_not_become_certain_because_it_is_the_only_one_that_fits():
    """A network that is sure of nothing: each of the labellings has a tiny share."""
    alphabet = "".join(chr(0x4E00 + number) for number in range(30))
    grammar = Grammar(formats=(Format(name="x", templates=((alphabet[0],) * 3,)),))
    logits = np.random.default_rng(0).normal(0, 0.1, (12, 31))
    assert Reader(alphabet, 30, grammar).read(logits).confidence < 0.02


def test_a_sure_text_that_fits_no_format_is_returned_as_read_and_stays_sure():
    reading = Reader("ab12", 4, AB12).read(spell("22", "ab12"))
    assert (reading.text, reading.formats) == ("22", ())
    assert reading.confidence > 0.9


def test_a_text_has_the_formats_of_all_templates_that_it_fits():
    reader = Reader("abc", 3, SMALL)
    for name in ("b", "ab", "aa", "bb", "ba", "c", "abb"):
        assert reader.read(spell(name, "abc")).text == name
        assert reader.read(spell(name, "abc")).formats == SMALL.formats_of(name)
    assert SMALL.formats_of("ab") == ("twice", "other")
    assert SMALL.formats_of("aa") == ("other",)


def test_greedy_with_the_blank_first():
    assert text.greedy(np.eye(3)[None, [1, 1, 0, 1, 2, 0]], "ab", 0) == ["aab"]


def spell(text: str, alphabet: str, strength: float = 12.0) -> NDArray[np.float64]:
    """Logits (T, C), blank last, that read `text`."""
    logits = np.zeros((2 * len(text) + 1, len(alphabet) + 1))
    logits[::2, -1] = strength
    for i, char in enumerate(text):
        logits[2 * i + 1, alphabet.index(char)] = strength
    return logits


AB12 = Grammar(
    formats=(Format(name="short", templates=(("ab", "12"),)), Format(name="long", templates=(("a", "12", "12"),)))
)


def test_extreme_logits_stay_finite():
    reading = Reader("ab12", 4, AB12).read(spell("a1", "ab12", 1e30).astype(np.float32), top_k=10)
    assert reading.text == "a1"
    assert reading.confidence == pytest.approx(1)
    assert all(0 <= c.confidence <= 1 for c in reading.candidates)


def test_a_text_that_fits_beats_a_slightly_better_one_that_does_not():
    logits = spell("aa", "ab12")
    logits[3, 2] = 11.5  # "a1" is a little less probable than "aa"
    reading = Reader("ab12", 4, AB12).read(logits, top_k=2)
    assert [c.text for c in reading.candidates] == ["a1", "aa"]
    assert (reading.text, reading.formats, reading.valid_format) == ("a1", ("short",), True)
    assert reading.confidence > 0.5 > reading.candidates[1].confidence > 0


def test_a_plate_that_fits_no_format_is_returned_as_read():
    logits = spell("aa", "ab12")
    logits[3, 2] = 2.0  # "a1" would fit, but is far too improbable
    reading = Reader("ab12", 4, AB12).read(logits)
    assert (reading.text, reading.formats, reading.valid_format) == ("aa", (), False)


def test_a_template_may_allow_any_character():
    template = Format(name="odd", templates=(("^-]", "a-c"), ("|",)))
    assert [text for text in ("^a", "--", "]c", "|", "^b", "_a", "\\a", "^", "", "^a|") if template.fits(text)] == [
        "^a",
        "--",
        "]c",
        "|",
    ]


def test_nothing_but_blanks_reads_as_nothing():
    reading = Reader("ab12", 4, AB12).read(spell("", "ab12"))
    assert (reading.text, reading.characters, reading.valid_format) == ("", (), False)


@settings(max_examples=20)
@given(hnp.arrays(np.float32, (24, 74), elements=st.floats(-20, 20, width=32)), st.integers(1, 10))
def test_top_k_candidates_differ_and_are_sorted(logits, top_k):
    alphabet = "".join(chr(0x4E00 + i) for i in range(73))
    candidates = Reader(alphabet, 73, NO_GRAMMAR).read(logits, top_k).candidates
    assert len({c.text for c in candidates}) == len(candidates) == top_k
    assert [c.confidence for c in candidates] == sorted((c.confidence for c in candidates), reverse=True)


LOOKS = Grammar(
    formats=(
        Format(
            name="cn-standard",
            templates=(("京", "AB", "01", "01"),),
            kinds=(
                Kind(name="cn-blue", region="cn", rows=1, colours=("blue",), share=0.8),
                Kind(name="cn-yellow-two-row", region="cn", rows=2, colours=("yellow",), share=0.2),
            ),
        ),
        Format(
            name="de",
            templates=(("AB", "01", "01"),),
            kinds=(Kind(name="de", region="de", rows=1, colours=("white",), share=1),),
        ),
        Format(
            name="fr",
            templates=(("AB", "AB01", "AB01"),),
            kinds=(Kind(name="fr", region="fr", rows=1, colours=("white", "yellow"), share=1),),
        ),
    )
)
ALPHABET = "京AB01"


def world(**more: Any) -> Reader:
    return Reader(ALPHABET, 5, LOOKS, **more)


def test_formats_are_those_with_a_kind_that_looks_so_if_any_has():
    logits = spell("A01", ALPHABET)
    assert world().read(logits).formats == ("de", "fr")
    assert world().read(logits, looks=Looks(1, "white")).formats == ("de", "fr")
    assert world().read(logits, looks=Looks(1, "yellow")).formats == ("fr",)
    assert world().read(logits, looks=Looks(2, "black")).formats == ("de", "fr")  # misjudged: no kind looks so


def test_the_region_is_the_most_probable_one_by_text_and_looks():
    logits = spell("A01", ALPHABET)
    plain, yellow = (world().read(logits, looks=looks).region for looks in (None, Looks(1, "yellow")))
    # fr has 2 x 4 x 4 texts, de 2 x 2 x 2: before anything is seen both are as probable
    assert plain == ("de", pytest.approx((1 / 8) / (1 / 8 + 1 / 32)))
    assert yellow is not None
    assert yellow.code == "fr"
    assert world().read(spell("京A01", ALPHABET), looks=Looks(1, "blue")).region == ("cn", 1.0)
    assert world().read(spell("00", ALPHABET)).region is None


def test_the_shape_tells_regions_apart_but_is_no_proof():
    def kind(code: str, text: str, aspect: tuple[float, float] | None) -> Format:
        looks = Kind(name=code, region=code, rows=1, colours=("white",), share=1, aspect=aspect)
        return Format(name=code, templates=((text,) * 3,), kinds=(looks,))

    grammar = Grammar(formats=(kind("us", "AB01", (2.0, 2.0)), kind("de", "AB01", (4.6, 4.8)), kind("fr", "01", None)))

    def seen(text: str, aspect: float | None) -> Reading:
        return Reader(ALPHABET, 5, grammar).read(spell(text, ALPHABET), looks=Looks(1, "white", aspect))

    def region(text: str, aspect: float | None) -> tuple[str, float]:
        found = seen(text, aspect).region
        assert found is not None
        return found

    assert region("AB1", None)[1] == 0.5
    for aspect, code in ((2.0, "us"), (2.3, "us"), (4.7, "de"), (4.0, "de")):
        assert region("AB1", aspect) == (code, pytest.approx(1, abs=0.02))
        assert seen("AB1", aspect).formats == (code,)
    assert region("AB1", 3.0) == ("us", pytest.approx(0.5, abs=0.45))  # as unlike the one as the other
    assert seen("AB1", 3.1).formats == ("us", "de")
    assert region("001", 2.0)[0] == "fr"  # whose shape is not known, and that has no other texts
    assert region("001", 4.7)[0] == "fr"


def test_held_to_a_region_a_plate_is_read_as_one_of_it_and_of_no_other():
    logits = spell("京A01", ALPHABET)
    held = world().read(logits, 3, LOOKS.within(["de"]))
    assert all(LOOKS.only(["de"]).formats_of(text) for text, _ in held.candidates)
    assert held.region == ("de", 1.0)
    assert held.confidence < 0.01  # it is a Chinese plate nevertheless
    latin = world().read(spell("B10", ALPHABET), 3, LOOKS.within(["cn"]))
    assert latin.text.startswith("京")
    assert latin.confidence < 0.01


def test_what_is_held_is_found_alike_with_the_search_and_template_by_template(monkeypatch):
    logits = np.random.default_rng(3).normal(0, 2, (9, 6))
    only = LOOKS.within(["de", "fr"])
    quick = world().read(logits, 3, only).candidates
    monkeypatch.setattr(ctc.Search, "exhausted", True)
    assert [text for text, _ in world().read(logits, 3, only).candidates] == [text for text, _ in quick]


def test_a_temperature_makes_readings_less_sure():
    logits = spell("A01", ALPHABET, 6)
    assert world(temperature=2.0).read(logits).confidence < world().read(logits).confidence
    assert world(temperature=2.0).read(logits).text == "A01"


def test_a_character_that_lies_outside_of_the_image_is_less_sure():
    logits = spell("A01", ALPHABET)
    seen = np.ones(70)
    whole = world().read(logits, 2, seen=seen)
    assert whole == world().read(logits, 2)
    seen[60:] = 0
    cut = world().read(logits, 2, seen=seen)
    before, after = ([sure for _, sure in reading.characters] for reading in (whole, cut))
    assert after[:2] == before[:2]
    assert after[2] < 0.8 * before[2]
    assert cut.confidence / whole.confidence == pytest.approx(after[2] / before[2])
    assert cut.candidates[1].confidence < whole.candidates[1].confidence


@pytest.mark.parametrize(("sure", "text"), [(0.7, "A01"), (0.3, "京01")])
def test_no_country_is_preferred_beforehand(sure, text):
    """The first character is a letter or a province: what the network sees decides, not how many formats begin so."""
    grammar = Grammar(
        formats=(
            Format(name="cn", templates=(("京", "01", "01"),)),
            *(Format(name=name, templates=(("AB", "01", "01"),)) for name in ("de", "fr", "it")),
        )
    )
    logits = spell("A01", ALPHABET)
    logits[1] = np.log([1 - sure, sure, 1e-6, 1e-6, 1e-6, 1e-6])
    reading = Reader(ALPHABET, 5, grammar).read(logits)
    assert reading.text == text
    assert reading.confidence == pytest.approx(max(sure, 1 - sure), abs=0.02)


def test_a_cut_crop_without_a_text_is_read_too():
    assert world().read(spell("", ALPHABET), seen=np.zeros(70)).text == ""


LETTERS_AND_DIGITS = "AO01"
ORDERED = Grammar(
    formats=(
        Format(
            name="bg",
            templates=(("AO", "01", "01"),),
            kinds=(Kind(name="bg", region="bg", rows=1, colours=("white",), share=1),),
        ),
        Format(
            name="any",
            templates=((LETTERS_AND_DIGITS,) * 3,),
            kinds=(Kind(name="any", rows=2, colours=("white",), share=1),),
        ),
    )
)


def twins(first: float) -> NDArray[np.float64]:
    """Logits of "O01", to whose first character a model gives this probability, and to a 0 nearly all that is left."""
    logits = spell("O01", LETTERS_AND_DIGITS, 20.0)
    logits[1] = np.log([0.01, first, 0.99 - first, 1e-9, 1e-9])
    return logits


@pytest.mark.parametrize("views", [1, 3])
def test_what_is_drawn_alike_is_told_apart_by_how_frequent_its_text_is(views):
    reader = Reader(LETTERS_AND_DIGITS, 4, ORDERED)
    logits = twins(0.4)
    reading = reader.read(logits if views == 1 else np.stack([logits] * views), 3)
    sure = dict(reading.candidates)
    # "O01" is one of 2 x 2 x 2 texts of one format and of 4 x 4 x 4 of the other, "001" of those alone
    odds = 0.4 * (1 / 8 + 1 / 64), 0.59 * (1 / 64)
    assert reading.text == "O01"
    assert sure["O01"] == pytest.approx(0.99 * odds[0] / sum(odds), abs=0.01)
    assert sure["O01"] + sure["001"] == pytest.approx(0.99, abs=0.01)  # as sure as they were together
    assert sure["A01"] == pytest.approx(0.01, abs=0.002)  # it looks otherwise
    two_rows = reader.read(logits, 3, looks=Looks(2, "white"))
    assert two_rows.confidence < reading.confidence  # then it is rather of the kind that has any order


def test_a_sure_text_stays_however_rare_it_is_among_those_that_are_drawn_alike():
    reading = Reader(LETTERS_AND_DIGITS, 4, ORDERED).read(twins(0.05), 2)
    assert reading.text == "001"
    assert reading.confidence == pytest.approx(0.94, abs=0.01)


def test_among_formats_that_are_asked_for_what_is_drawn_alike_is_as_sure_as_among_all():
    reader, only = Reader(LETTERS_AND_DIGITS, 4, ORDERED), ORDERED.only(["any"])
    free, held = (reader.read(twins(0.4), 10, formats) for formats in (None, only))
    sure = dict(free.candidates)
    assert held.text == free.text
    for candidate in held.candidates[:3]:
        assert candidate.confidence == pytest.approx(sure[candidate.text])


def test_without_formats_what_is_drawn_alike_is_read_as_it_looks():
    reading = Reader(LETTERS_AND_DIGITS, 4, NO_GRAMMAR).read(twins(0.4), 2)
    assert [(text, round(sure, 2)) for text, sure in reading.candidates] == [("001", 0.59), ("O01", 0.4)]


def test_a_text_is_as_frequent_as_its_template_and_a_plate_as_its_colour():
    templates = (("A", "01"), ("AB", "01", "01"))
    plain = Format(name="x", templates=templates)
    assert plain.likelihood("A0") == pytest.approx(1 / 2 / 2)
    weighed = Format(name="x", templates=templates, weights=(0.9, 0.1))
    assert weighed.likelihood("A0") == pytest.approx(0.9 / 2)
    assert weighed.likelihood("B01") == pytest.approx(0.1 / 8)
    assert weighed.likelihood("B0") == 0
    with pytest.raises(ValueError, match="x has 2 templates and 1 weights"):
        Format(name="x", templates=templates, weights=(1.0,))
    kind = Kind(name="x", rows=1, colours=("white", "white", "red"), share=1)
    assert kind.likelihood(Looks(1, "white")) == pytest.approx(2 / 3)
    assert kind.likelihood(Looks(1, "blue")) < 0.05


LENGTHS = Grammar(
    formats=(
        Format(
            name="short",
            templates=(("AB", "01"),),
            kinds=(Kind(name="blue", region="cn", rows=1, colours=("blue",), share=1),),
        ),
        Format(
            name="long",
            templates=(("AB", "01", "01"),),
            kinds=(Kind(name="green", region="cn", rows=1, colours=("green",), share=1),),
        ),
    )
)


def views_of_a_last_character(sure: float) -> NDArray[np.float64]:
    """Logits of three views of "A0", which a 1 follows with this probability."""
    logits = spell("A01", "AB01", 20.0)
    logits[5] = np.log([1e-9, 1e-9, 1e-9, sure, 1 - sure])
    return np.stack([logits] * 3)


def test_in_several_views_an_unsure_text_counts_by_the_looks_of_its_plate():
    reader, views = Reader("AB01", 4, LENGTHS), views_of_a_last_character(0.4)
    green, blue = Looks(1, "green"), Looks(1, "blue")
    plain, like, unlike = (reader.read(views, 3, looks=looks) for looks in (None, blue, green))
    assert (plain.text, like.text, unlike.text) == ("A0", "A0", "A01")
    assert like.confidence > 0.95 > 0.61 > plain.confidence
    assert sum(sure for _, sure in unlike.candidates) <= 1
    held = reader.read(views, 3, LENGTHS.only(["long"]), green)
    assert held.candidates[0] == unlike.candidates[0]
    assert reader.read(views[0], 3, looks=green).text == "A0"  # one view, after which more may be looked at


def test_a_sure_text_stays_whatever_its_plate_looks_like():
    reading = Reader("AB01", 4, LENGTHS).read(views_of_a_last_character(0.05), 3, looks=Looks(1, "green"))
    assert reading.text == "A0"
    assert reading.confidence > 0.9


def test_looks_are_as_probable_of_a_text_as_of_the_kinds_that_have_it():
    either = Grammar(formats=(*LENGTHS.formats, LENGTHS.formats[0].model_copy(update={"name": "too"})))
    assert LENGTHS.likelihood(Looks(1, "blue"), "A0") == 1
    assert LENGTHS.likelihood(Looks(1, "blue"), "A01") == pytest.approx(0.03)
    assert either.likelihood(Looks(1, "blue"), "A0") == 1  # however many formats it fits
    assert 0.03 < LENGTHS.likelihood(Looks(1, "blue"), "no format") < 0.1


def test_of_two_rows_what_each_shows_alone_decides_where_the_views_are_unsure():
    alphabet = "AB01"
    reader = Reader(alphabet, 4, NO_GRAMMAR)
    views = np.stack([spelled("A10", alphabet, {}), spelled("A00", alphabet, {}), spelled("AA0", alphabet, {})])
    views[:, 3] *= 0.3  # what follows the A is not to be seen
    upper, lower = (np.full((7, 5), [0, 0, 0, 0, 12.0]) for _ in range(2))
    upper[1, 0] = lower[1, 3] = lower[4, 2] = 24
    rows = np.stack([upper, lower])
    assert reader.read(views).confidence < 0.6
    reading = reader.read(views, 3, rows=rows)
    assert reading.text == "A10"
    assert reading.confidence > 0.6
    assert [character.char for character in reading.characters] == list("A10")
    assert sum(sure for _, sure in reading.candidates) <= 1
    shown = reader.read(np.stack([spelled("B", alphabet, {})] * 2), 3, rows=rows)
    assert "A10" in dict(shown.candidates)
    assert shown.text == "B"


def test_two_rows_whose_characters_do_not_fit_the_frames_together_are_no_text():
    reader = Reader("AB", 2, NO_GRAMMAR)
    views, rows = np.zeros((2, 7, 3)), np.full((2, 7, 3), -9.0)
    rows[:, ::2, 0] = rows[:, 1::2, 2] = 9  # "AAAA" in either
    reading = reader.read(views, 10, rows=rows)
    assert reading.text
    assert "AAAAAAAA" not in dict(reading.candidates)


def parted(texts: dict[tuple[int, ...], float], others: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    """The probability of every text that a text of either row, none of them empty, makes."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for (one, sure), (other, also) in itertools.product(texts.items(), others.items()):
        if one and other:
            found[one + other] += sure * also
    return found


@given(small_logits, st.data())
def test_a_text_of_two_rows_is_as_probable_as_its_parts_wherever_it_parts(logits, data):
    blank = data.draw(st.integers(0, logits.shape[1] - 1))
    other = data.draw(hnp.arrays(np.float32, logits.shape, elements=st.floats(-8, 8, width=32)))
    expected = parted(oracle(logits, blank), oracle(other, blank))
    prior = uniform(logits)
    rows = text._Rows(ctc.Search(ctc.softmax(logits), blank, prior), ctc.Search(ctc.softmax(other)[::-1], blank, prior))
    assert rows.texts() <= {*expected}
    for labels, probability in expected.items():
        assert rows.posterior(labels) == pytest.approx(probability, rel=1e-9, abs=1e-15)
