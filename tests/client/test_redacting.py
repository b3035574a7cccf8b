"""`lpr redact`: a folder again with its plates covered, which goes on where it stopped and overwrites nothing."""

from pathlib import Path

import httpx
import pytest

from service.client import Client, cli, redacting
from service.client.client import Covered
from service.settings import Settings
from tests.support.photographed import BOTH, NEAR, detail, pixels, with_location
from tests.support.servers import running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photograph, one deeper, something that is no image, and one that is broken."""
    top = tmp_path / "in"
    (top / "deeper").mkdir(parents=True)
    (top / "a.jpg").write_bytes(with_location())
    (top / "deeper" / "b.png").write_bytes(with_location(format="PNG"))
    (top / "broken.jpg").write_bytes(b"x")
    (top / "notes.txt").write_text("x")
    return top


@pytest.mark.slow
def test_a_folder_is_written_again_and_errors_are_listed(folder, capsys):
    out = folder.parent / "out"
    assert cli.main(["redact", str(folder), str(out)]) == 1
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert written == ["a.jpg", "deeper/b.png"]
    for name in written:
        data = (out / name).read_bytes()
        assert b"a camera" not in data
        assert detail(pixels(data), NEAR) < 0.3 * detail(BOTH, NEAR)
    told = capsys.readouterr().err
    assert "broken.jpg: " in told
    assert "2 redacted with" in told
    assert "1 not." in told
    assert "files that are no images (.txt): 1" in told


@pytest.mark.slow
def test_it_goes_on_and_overwrites_nothing(folder, capsys):
    out = folder.parent / "out"
    out.mkdir()
    (out / "a.jpg").write_text("mine")
    (folder / "broken.jpg").unlink()
    assert cli.main(["redact", str(folder), str(out), "--how", "fill"]) == 0
    assert (out / "a.jpg").read_text() == "mine"
    assert "1 redacted" in (told := capsys.readouterr().err)
    assert "1 were there already, 0 not." in told
    assert cli.main(["redact", str(folder), str(out)]) == 0
    assert "0 redacted with 0 places covered, 2 were there already" in capsys.readouterr().err


def test_folders_that_make_no_sense(folder, capsys):
    for out in (folder, folder / "deeper" / "out"):
        assert cli.main(["redact", str(folder), str(out)]) == 2
    assert cli.main(["redact", str(folder / "none"), str(folder.parent / "out")]) == 2
    assert "outside of it" in capsys.readouterr().err


def test_a_file_is_written_whole_and_never_over_another(tmp_path):
    target = tmp_path / "deeper" / "a.jpg"
    redacting.write_new(target, b"one")
    with pytest.raises(FileExistsError):
        redacting.write_new(target, b"two")
    assert target.read_bytes() == b"one"
    assert [path.name for path in target.parent.iterdir()] == ["a.jpg"]


def test_a_photo_that_nothing_here_can_write_becomes_a_jpeg():
    top, out = Path("in"), Path("out")
    assert redacting.target_of(top / "x" / "a.HEIC", top, out) == out / "x" / "a.HEIC.jpg"
    assert redacting.target_of(top / "a.png", top, out) == out / "a.png"


def covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, three places are covered on each image, at once."""
    monkeypatch.setattr(redacting, "coverer", lambda *_: (lambda _: Covered(b"covered", "image/jpeg", 3), 1))


def test_what_is_counted_are_places(folder, capsys, monkeypatch):
    covers(monkeypatch)
    assert cli.main(["redact", str(folder), str(folder.parent / "out")]) == 0
    assert "lpr: 3 redacted with 9 places covered, 0 not." in capsys.readouterr().err


def test_two_images_for_one_target_are_an_error_each_time(folder, capsys, monkeypatch):
    covers(monkeypatch)
    for name in ("x.heic", "x.heic.jpg"):
        (folder / name).write_bytes(b"x")
    out = folder.parent / "out"
    for _ in range(2):
        assert cli.main(["redact", str(folder), str(out)]) == 1
        told = capsys.readouterr().err
        assert "2 not." in told
        for name in ("x.heic", "x.heic.jpg"):
            assert (
                f"lpr: {folder / name}: {out / 'x.heic.jpg'} would be written for {folder / 'x.heic'} and for "
                f"{folder / 'x.heic.jpg'}: rename one of these.\n"
            ) in told
        assert not (out / "x.heic.jpg").exists()
    (folder / "x.heic.jpg").rename(folder / "y.jpg")
    assert cli.main(["redact", str(folder), str(out)]) == 0
    assert (out / "x.heic.jpg").read_bytes() == b"covered"


def test_a_folder_with_the_name_of_an_image_is_an_error_each_time(folder, capsys, monkeypatch):
    covers(monkeypatch)
    (folder.parent / "out" / "a.jpg").mkdir(parents=True)
    for _ in range(2):
        assert cli.main(["redact", str(folder), str(folder.parent / "out")]) == 1
        assert f"{folder.parent / 'out' / 'a.jpg'} cannot be written: File exists." in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_covers_them_too(folder, capsys):
    (folder / "broken.jpg").unlink()
    with running(Settings(threads=1)) as url:
        with Client(url) as client:
            covered = client.redact(folder / "a.jpg", "fill")
        assert (covered.media_type, covered.plates >= 2) == ("image/jpeg", True)
        assert cli.main(["redact", str(folder), str(folder.parent / "out"), "--url", url]) == 0
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert "2 redacted" in capsys.readouterr().err


def test_writing_touches_no_other_file(tmp_path):
    (tmp_path / ".a.jpg.part").write_text("mine")
    (tmp_path / ".b.jpg.part").symlink_to(tmp_path / "outside")
    for name in ("a.jpg", "b.jpg"):
        redacting.write_new(tmp_path / name, b"one")
    assert (tmp_path / ".a.jpg.part").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.jpg.part", ".b.jpg.part", "a.jpg", "b.jpg"]


def test_an_output_that_cannot_be_written_is_named_once(folder, capsys, monkeypatch):
    out = folder.parent / "out"
    out.write_text("x")
    assert cli.main(["redact", str(folder), str(out)]) == 2
    assert capsys.readouterr().err == f"lpr: {out} is no folder: name one to write to.\n"
    assert cli.main(["redact", str(folder), str(out / "deeper")]) == 2
    assert capsys.readouterr().err == f"lpr: {out / 'deeper'} cannot be written to: Not a directory.\n"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(redacting, "write_new", full)
    monkeypatch.setattr(redacting, "coverer", lambda *_: (lambda _: Covered(b"", "image/png", 0), 1))
    assert cli.main(["redact", str(folder), str(folder.parent / "new")]) == 1
    assert f"{folder.parent / 'new' / 'a.jpg'} cannot be written: No space left on device." in capsys.readouterr().err


def test_a_file_that_ends_early_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(redacting, "coverer", lambda *_: (lambda _: Covered(b"", "image/png", 0, truncated=True), 1))
    assert cli.main(["redact", str(folder), str(folder.parent / "out")]) == 0
    assert f"lpr: {folder / 'a.jpg'} ends early" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "there"])
def test_a_photograph_that_ends_early_is_named(tmp_path, capsys, where):
    (tmp_path / "in").mkdir()
    whole = with_location()
    (tmp_path / "in" / "a.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    with running(Settings(threads=1)) as url:
        asked = ["redact", str(tmp_path / "in"), str(tmp_path / "out")]
        assert cli.main([*asked, "--url", url] if where == "there" else asked) == 0
    assert "a.jpg ends early" in capsys.readouterr().err
