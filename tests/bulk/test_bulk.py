"""`lpr bulk` on Ray: every row exactly once, whatever is killed or interrupted."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from service.client import cli
from service.reader import Reader
from tests.support.photographed import with_location

IMAGES, PARTITION = 48, 4
MAIN = "import sys; from service.client.cli import main; sys.exit(main())"

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of two plates, one of which is broken, and one file that is no image."""
    top = tmp_path / "in"
    top.mkdir()
    for number in range(IMAGES):
        (top / f"{number:03}.jpg").write_bytes(with_location())
    (top / "007.jpg").write_bytes(b"x")
    (top / "notes.txt").write_text("x")
    return top


def begin(folder: Path, output: Path) -> subprocess.Popen:
    command = ["bulk", str(folder), str(output), "--workers", "2", "--partition", str(PARTITION)]
    return subprocess.Popen([sys.executable, "-c", MAIN, *command], stderr=subprocess.PIPE, text=True)


def wait_for_parts(output: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(list(output.glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_rows(folder: Path, output: Path) -> None:
    """Two rows for each photograph, as read in this process, and one with the error of the broken one."""
    rows = pq.read_table(output).to_pylist()
    counts = Counter(row["file"] for row in rows)
    assert counts == {str(folder / f"{number:03}.jpg"): 1 if number == 7 else 2 for number in range(IMAGES)}
    (broken,) = [row for row in rows if row["error"]]
    assert broken["file"].endswith("007.jpg")
    assert broken["text"] is None
    with Reader() as reader:
        expected = [plate.model_dump() for plate in reader.read(folder / "000.jpg")]
    first = sorted((row for row in rows if row["file"].endswith("000.jpg")), key=lambda row: row["plate"])
    assert [row["plate"] for row in first] == [1, 2]
    for row, plate in zip(first, expected, strict=True):
        assert row["text"] == plate["text"]
        assert row["confidence"] == pytest.approx(plate["confidence"])
        assert np.asarray(row["box"]) == pytest.approx(np.asarray(plate["box"]))
        assert row["candidates"] == plate["candidates"]
        assert {*row} == {"file", "plate", "truncated", "note", "error", *plate}


def test_a_killed_worker_loses_nothing_and_doubles_nothing(folder, tmp_path):
    output = tmp_path / "plates.parquet"
    process = begin(folder, output)
    wait_for_parts(output, 2, process)
    workers = [
        one for one in psutil.process_iter(["cmdline"]) if "ray::MapWorker" in " ".join(one.info["cmdline"] or ())
    ]
    os.kill(workers[0].pid, signal.SIGKILL)
    _, told = process.communicate(timeout=180)
    assert process.returncode == 1, told
    assert f"{IMAGES - 1} images read with {2 * (IMAGES - 1)} plates, 1 not." in told
    check_rows(folder, output)
    assert list(output.glob("*.tmp")) == []


def test_after_an_interruption_the_same_command_reads_what_is_missing(folder, tmp_path, capsys):
    output = tmp_path / "plates.parquet"
    process = begin(folder, output)
    wait_for_parts(output, 2, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    assert 2 <= len(before) < IMAGES // PARTITION
    again = begin(folder, output)
    _, told = again.communicate(timeout=180)
    assert f"{len(before)} partitions were there already." in told
    check_rows(folder, output)
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    (folder / "new.jpg").write_bytes(b"x")
    assert cli.main(["bulk", str(folder), str(output)]) == 2
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_where_there_is_no_image_nothing_begins(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert cli.main(["bulk", str(tmp_path / name), str(tmp_path / "out")]) == 2
    assert "There is no image at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
