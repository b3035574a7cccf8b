"""Watch lists."""

import pytest

from service.errors import BadParameter
from service.video import lists
from service.video.fusion import Weighed, fuse
from service.video.lists import WatchList
from tests.support.video import DIGITS, GRAMMAR, LETTERS, reading

ALPHABET = f"京沪津粤{DIGITS}{LETTERS}"  # without I and O, as some readers


def fused(*texts):
    return fuse([Weighed(reading(*texts), 1.0)], GRAMMAR)


def read(file):
    return lists.read([file], ALPHABET)


def test_a_plate_that_is_read_surely_matches_itself_alone():
    found = WatchList([("京A12345", "ours"), ("京A12346", "theirs")]).matches(fused(("京A12345", 0.99)))
    assert [(match.plate, match.note) for match in found] == [("京A12345", "ours")]
    assert found[0].probability > 0.9


def test_the_second_candidate_matches_with_its_probability():
    (found,) = WatchList([("京A12346", "")]).matches(fused(("京A12345", 0.6), ("京A12346", 0.38)))
    assert 0.25 < found.probability < 0.5


@pytest.mark.parametrize(("written", "least"), [("京A1O345", 0.9), ("京AI0345", 0.9), ("京A1034S", 0.03)])
def test_characters_that_look_alike_match(written, least):
    assert fused(("京A10345", 0.99)).probability(written) > least


def test_what_is_confused_is_less_probable_than_what_is_read():
    found = fused(("京A10348", 0.99))
    assert found.probability("京A10348") > 10 * found.probability("京A1034B") > 0.1
    assert found.probability("京A10347") < 0.01


def test_entries_that_exclude_each_other_add_up_to_at_most_one():
    found = WatchList([("京A10345", "a"), ("京A1O345", "b")]).matches(fused(("京A10345", 0.99)))
    assert len(found) == 2
    assert sum(match.probability for match in found) <= 1.001


def test_a_file_holds_plates_with_notes(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("# stolen\n京A·123 45, red van, a dent\n\n沪b-54321\n", encoding="utf-8")
    found = read(file).matches(fused(("京A12345", 0.99)))
    assert [(match.plate, match.note) for match in found] == [("京A12345", "red van, a dent")]
    assert read(file).matches(fused(("沪B54321", 0.99)))[0].note == ""


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("津ЕК98444", "津EK98444"),
        ("АВ 1234 ВС", "AB1234BC"),
        ("авекмнорсту1", "ABEKMHOPCTY1"),
        ("ΙΒΧ-1234", "IBX1234"),
        ("MÜ-AB 123", "MUAB123"),
        ("mu\u0308-ab 123", "MUAB123"),
        ("京AIO345", "京AIO345"),
    ],
)
def test_letters_of_other_keyboards_are_those_that_are_read(tmp_path, written, plain):
    (tmp_path / "list.csv").write_text(f"{written},note", encoding="utf-8")
    (found,) = read(tmp_path / "list.csv").matches(fused((plain, 0.99)))
    assert (found.plate, found.note) == (plain, "note")


@pytest.mark.parametrize("written", ["粵Z1234港", "МД 1234", "ØL 12345", "١٢٣", "京A1234Ж"])
def test_a_plate_with_a_letter_that_is_not_read_is_refused(tmp_path, written):
    (tmp_path / "list.csv").write_text(f"沪B54321\n{written},the plumber", encoding="utf-8")
    with pytest.raises(BadParameter, match=r"Line 2 of the list .* would never match: [粵ДØ١Ж] is not read"):
        read(tmp_path / "list.csv")


def test_a_heading_is_refused_with_its_number(tmp_path):
    (tmp_path / "list.csv").write_text("# ours\nplate,note\n京A12345", encoding="utf-8")
    with pytest.raises(BadParameter, match=r"Line 2 of the list .* heading: begin it with #"):
        read(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("京A12345\nHEJSAN,our car", encoding="utf-8")
    assert read(tmp_path / "list.csv").matches(fused(("HEJSAN", 0.99)))


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadParameter, match="cannot be read"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    "written",
    [
        '"京A12345","red van, a ""dent"""',
        '\t京A12345 , red van, a "dent"\t',
        '京\u200ea–1234.5,red van\u2028, a "dent"',
        '京Ａ１２３４５,red van, a "dent",,',
    ],
)
def test_each_line_is_an_entry_however_it_is_written(tmp_path, written):
    file = tmp_path / "list.csv"
    file.write_text(f"# plate,note\r\n{written}\r\n,,\r\n\u3000\r\n沪B54321", encoding="utf-8", newline="")
    (found,) = read(file).matches(fused(("京A12345", 0.99)))
    assert "".join(char for char in found.note if char.isprintable()).rstrip(",") == 'red van, a "dent"'
    assert read(file).matches(fused(("沪B54321", 0.99)))


@pytest.mark.parametrize(
    "written",
    [
        '京A12345,"the plumber',
        '京A12345,"the" plumber',
        '京A12345,"' + 150_000 * "x" + '"',
        "京A12345;the plumber",
        "京A12345\tthe plumber",
        "京A12345，the plumber",
        "京A12345|the plumber",
        "京A12345 the plumber",
        "京A*,the plumber",
        ",the plumber",
        "--,the plumber",
    ],
)
def test_a_line_that_would_never_match_is_refused_with_its_number(tmp_path, written):
    file = tmp_path / "list.csv"
    file.write_text(f"# stolen\n\n{written}\n沪B54321,thief\n", encoding="utf-8")
    with pytest.raises(BadParameter, match=r"Line 3 of the list .*list\.csv ") as raised:
        read(file)
    assert "plumber" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_a_list_that_is_not_utf_8_is_refused_with_advice(tmp_path, encoding):
    (tmp_path / "list.csv").write_text("京A12345, ours", encoding=encoding)
    with pytest.raises(BadParameter, match="save it as UTF-8"):
        read(tmp_path / "list.csv")
