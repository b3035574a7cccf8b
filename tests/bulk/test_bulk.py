"""`lpr bulk` on Ray: every row exactly once, whatever is killed or interrupted."""

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray

from model_builder.measure.load.servers import free_port
from service.bulk import listing, run, table
from service.client import cli
from service.reader import ImageResult, Reader
from tests.support.images import encode
from tests.support.photographed import with_location
from tests.support.photographs import street

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
    (top / "047.jpg").write_bytes(b"x")  # the last: in a partition that an interrupted run leaves
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
    assert counts == {str(folder / f"{number:03}.jpg"): 1 if number == IMAGES - 1 else 2 for number in range(IMAGES)}
    (broken,) = [row for row in rows if row["error"]]
    assert broken["file"].endswith("047.jpg")
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


def test_interrupted_and_killed_it_loses_nothing_and_doubles_nothing(folder, tmp_path, capsys):
    """In one test, because Ray takes long to start: an interruption, then a worker killed while the command goes on."""
    output = tmp_path / "plates.parquet"
    process = begin(folder, output)
    wait_for_parts(output, 2, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    assert 2 <= len(before) < IMAGES // PARTITION - 2
    again = begin(folder, output)
    wait_for_parts(output, len(before) + 1, again)
    workers = [one for one in psutil.Process(again.pid).children(recursive=True) if "ray::MapWorker" in one.name()]
    os.kill(workers[0].pid, signal.SIGKILL)
    _, told = again.communicate(timeout=180)
    assert again.returncode == 1, told
    assert f"1 not. {len(before)} partitions were there already." in told
    check_rows(folder, output)
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    assert list(output.glob("*.tmp")) == []
    assert cli.main(["bulk", str(folder), str(output), "--partition", str(PARTITION)]) == 1
    assert "partitions were there already, with 1 images that were not read" in capsys.readouterr().err
    (folder / "new.jpg").write_bytes(b"x")
    assert cli.main(["bulk", str(folder), str(output)]) == 2
    assert "name another folder" in capsys.readouterr().err


def test_what_is_in_no_image_is_told_in_its_row(monkeypatch):
    """Without Ray: too many bytes, no plate, a file that is gone, one that a file system fails at in its own way; in a
    file system that is not this machine's."""
    monkeypatch.setenv("LPR_MAX_BYTES", "1000000")
    memory = fsspec.filesystem("memory")
    images = {"big": bytes(1_000_001), "bare": encode(".jpg", street()), "two": with_location()}
    for name, content in images.items():
        memory.pipe_file(f"/bulk-in/{name}.jpg", content)
    place, out = listing.Place(memory, "/bulk-in"), listing.Place(memory, "/bulk-out")
    worker = run.Worker(place, out, run.Options())
    paths = [f"/bulk-in/{name}.jpg" for name in (*images, "gone", "odd")]
    of_memory = memory.open

    def opened(path, mode):
        if "odd" in path:
            raise zipfile.BadZipFile("bad magic number")
        return of_memory(path, mode)

    monkeypatch.setattr(memory, "open", opened)
    counts = worker({"number": [3], "paths": [paths]})
    worker.reader.close()
    assert counts == {"images": [5], "errors": [3], "plates": [2]}
    assert memory.ls("/bulk-out", detail=False) == ["/bulk-out/part-000003.parquet"]
    with memory.open("/bulk-out/part-000003.parquet", "rb") as file:
        big, bare, first, second, gone, odd = pq.read_table(file).to_pylist()
    assert big["file"] == "memory:///bulk-in/big.jpg"
    assert "LPR_MAX_BYTES allows: 1,000,000" in big["error"]
    assert (bare["text"], bare["error"], bare["plate"]) == (None, None, None)
    assert bare["note"]
    assert first["text"] != second["text"]
    assert "gone.jpg" in gone["error"]
    assert odd["error"] == "memory:///bulk-in/odd.jpg cannot be used: BadZipFile: bad magic number"


def test_a_region_that_is_not_known_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    assert cli.main(["bulk", str(folder), str(tmp_path / "out"), "--region", "zz"]) == 2
    assert "there is no 'zz'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_told_at_once(folder, tmp_path, capsys, monkeypatch, address):
    """Ray is not asked: it would try for minutes."""
    monkeypatch.setattr(ray, "init", None)
    address = address.format(free_port())
    assert cli.main(["bulk", str(folder), str(tmp_path / "out"), "--address", address]) == 2
    told = capsys.readouterr().err
    assert f"lpr: There is no cluster at {address}: ConnectionRefusedError" in told
    assert "The same command goes on" in told


@pytest.mark.parametrize("address", ["nowhere.invalid:6379", "127.0.0.1:99999", f"{'x' * 64}.example:6379"])
def test_an_address_that_there_cannot_be_is_no_cluster(address):
    with pytest.raises(run.Unfinished, match="There is no cluster"):
        run._check_cluster(address)


@pytest.mark.parametrize("address", [None, "auto", "local", "ray://name", "name:port"])
def test_other_addresses_are_left_to_ray(address, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", None)
    run._check_cluster(address)


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError, Exception])
def test_whatever_ray_raises_is_told_in_a_line(folder, tmp_path, capsys, monkeypatch, kind):
    given = {}

    def refuse(address, runtime_env, **_):
        given.update(runtime_env["env_vars"])
        raise kind(f"nothing at {address}")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(socket, "create_connection", lambda *_: socket.socket())
    monkeypatch.setenv("LPR_REGIONS", "cn")
    monkeypatch.setenv("LPR_WEBHOOK_SECRET", "of no use there")
    assert cli.main(["bulk", str(folder), str(tmp_path / "out"), "--address", "head:6379"]) == 2
    assert f"lpr: {kind.__name__}: nothing at head:6379 The same command goes on" in capsys.readouterr().err
    assert given == {"LPR_REGIONS": "cn"}


def test_more_workers_than_the_machine_can_take_are_refused_before_anything_is_written(folder, tmp_path, capsys):
    assert cli.main(["bulk", str(folder), str(tmp_path / "out"), "--workers", "99999999999999"]) == 2
    assert "99999999999999 workers are too many for this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@contextmanager
def room(most: int):
    """No file may become larger than so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def no_ray(monkeypatch):
    """A machine on which Ray does not start: what is written before shows."""

    def refuse(*_, **__):
        raise RuntimeError("no Ray here")

    monkeypatch.setattr(ray, "init", refuse)


def test_after_a_disk_that_was_full_the_same_command_goes_on(folder, tmp_path, capsys, no_ray):
    command = ["bulk", str(folder), str(tmp_path / "out")]
    with room(10):
        assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert f"lpr: {tmp_path / 'out'} cannot be used: OSError: [Errno {errno.EFBIG}]" in told
    assert not (tmp_path / "out" / run.JOB).exists()
    assert cli.main(command) == 2
    assert "no Ray here" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / run.JOB).read_bytes())["images"] == IMAGES


@pytest.mark.parametrize("content", [b"", b'{"images": ', b"[]", b"null", b"\xff"])
def test_a_damaged_job_is_written_again_or_named(folder, tmp_path, capsys, no_ray, content):
    """Again where nothing was read yet; where there are parts, nobody knows what they were made of."""
    job = tmp_path / "out" / run.JOB
    job.parent.mkdir()
    job.write_bytes(content)
    command = ["bulk", str(folder), str(job.parent)]
    assert cli.main(command) == 2
    assert "no Ray here" in capsys.readouterr().err
    assert json.loads(job.read_bytes())["images"] == IMAGES
    job.write_bytes(content)
    (job.parent / "part-000000.parquet").write_bytes(b"x")
    assert cli.main(command) == 2
    assert f"lpr: {job} is damaged" in capsys.readouterr().err
    assert job.read_bytes() == content


def test_a_part_that_is_damaged_is_named(folder, tmp_path, capsys, no_ray):
    out = tmp_path / "out"
    assert cli.main(["bulk", str(folder), str(out)]) == 2
    (out / "part-000000.parquet").write_bytes(b"x")
    assert cli.main(["bulk", str(folder), str(out)]) == 2
    assert f"lpr: {out / 'part-000000.parquet'} cannot be used: ArrowInvalid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("{folder}/notes.txt/x", "NotADirectoryError"),
        ("{folder}/notes.txt", "holds something else"),
        ("/proc/x/y", "FileNotFoundError"),
        ("http://127.0.0.1:{port}/out", "cannot be used"),
        ("ftp://127.0.0.1:{port}/out", "ConnectionRefusedError"),
        ("{folder}", "holds something else"),
        ("memory://out", "memory of one process"),
        ("simplecache::memory://out", "memory of one process"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_in_a_line(folder, capsys, no_ray, output, told):
    output = output.format(folder=folder, port=free_port())
    assert cli.main(["bulk", str(folder), output]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lpr: {output} ")
    assert told in said


def test_parts_that_were_written_elsewhere_are_missed(folder, tmp_path, capsys, monkeypatch):
    """As by workers of other machines into folders of their own."""
    part = {"images": 1, "errors": 0, "plates": 2}
    monkeypatch.setattr(run, "_parts", lambda listing, out, numbers, options: [part for _ in numbers])
    assert cli.main(["bulk", str(folder), str(tmp_path / "out"), "--partition", "4"]) == 2
    assert "12 of 12 files were written, but are not in" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_where_there_is_no_image_nothing_begins(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert cli.main(["bulk", str(tmp_path / name), str(tmp_path / "out")]) == 2
    assert "There is no image at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_name_that_is_not_utf_8_is_written_with_its_bytes():
    name = os.fsdecode("车.jpg".encode("gbk"))
    (row,) = table.rows(name, ImageResult(note="no plate"))
    assert row["file"] == r"\xb3\xb5.jpg"
