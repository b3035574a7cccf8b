"""`lpr watch` from a video to its events."""

import errno
import json
import os
import shlex
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_builder.measure import video
from model_builder.render.video import VideoRenderer
from service.client import cli
from service.errors import BadParameter
from service.video import run
from service.video import watch as watching
from service.video.crops import Crops
from service.video.outbox import NotTaken, Outbox
from service.video.sources import Source
from service.video.watch import Options, Watch
from tests.support.video import Seeing, plate, reading

FOLDER_SEED = 7_100_000


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A folder with a clip of the day, and its passages."""
    folder = tmp_path_factory.mktemp("film")
    video.write(folder, VideoRenderer(), FOLDER_SEED, 1, 5)
    return folder


@pytest.mark.slow
def test_each_passage_of_a_video_is_one_event(film, tmp_path, capsys):
    ((name, clip),) = json.loads((film / video.TRUTH).read_text()).items()
    texts = [passage["text"] for passage in clip["passages"]]
    (tmp_path / "list.csv").write_text(f"{texts[0]},a friend\n")
    command = ["watch", f"street={film / name}", "--list", str(tmp_path / "list.csv")]
    command += ["--events", str(tmp_path / "events"), "--queue", str(tmp_path / "queue")]
    command += ["--keep-crops", str(tmp_path / "crops")]
    assert cli.main(command) == cli.ALL_READ
    lines = capsys.readouterr().out.splitlines()
    told = [json.loads(line) for line in lines]
    assert [event["text"] for event in told] == texts
    assert {event["camera"] for event in told} == {"street"}
    assert told[0]["matches"][0]["note"] == "a friend"
    assert (tmp_path / "events").read_text().splitlines() == lines
    assert sorted(event["crop"] for event in told) == sorted(map(str, (tmp_path / "crops").iterdir()))


def test_a_file_that_cannot_be_read_is_told(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    watch = Watch([Source("a", str(tmp_path / "a.mp4"))], Seeing(), lambda *_: None, Options())
    assert watch.run() is False
    assert capsys.readouterr().err.startswith("lpr: a: ")


def test_a_passage_is_told_where_the_stream_breaks_off_just_after_it(monkeypatch):
    told: list[Any] = []
    seeing, now = Seeing(), time.time()
    watch = Watch(
        [Source("a", "rtsp://a/1"), Source("b", "rtsp://b/1")], seeing, lambda one, _: told.append(one), Options()
    )
    monkeypatch.setattr(watching, "time", SimpleNamespace(time=lambda: now))
    monkeypatch.setattr(watching, "TURN_S", 0.01)
    start = watch._feeders["a"].start_time
    for _ in range(5):
        watch._mailbox.put("a", seeing.frame(now - start, (plate(300, 300), reading(("京A12345", 0.9)))), wait=False)
        now += 0.2
        watch._turn()
    assert told == []
    now += 2.2
    watch._mailbox.put("b", seeing.frame(now - start), wait=False)  # another camera goes on
    watch._turn()
    assert [(one.camera, one.text) for one in told] == [("a", "京A12345")]


def test_two_cameras_of_one_name_are_refused(tmp_path):
    with pytest.raises(BadParameter, match="Two cameras are called a"):
        Watch([Source("a", "rtsp://a/1"), Source("a", "rtsp://a/2")], Seeing(), lambda *_: None, Options())


def test_no_picture_is_kept_by_default():
    assert Options().crops is None


def test_pictures_are_kept_for_some_hours(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    crops = Crops(tmp_path, 1.0)
    old, new = (crops.keep(name, np.zeros((20, 60, 3), np.uint8)) for name in ("old", "new"))
    for file in (old, tmp_path / "holiday.jpg"):
        os.utime(file, (time.time() - 3601,) * 2)
    Crops(tmp_path, 1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holiday.jpg", "lpr-new.jpg"]
    assert new.endswith("lpr-new.jpg")


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_event_goes_on_without_a_crop_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    told = []
    watch = Watch([Source("a", "rtsp://a/1")], Seeing(), lambda event, _: told.append(event), Options())
    watch._options.crops = Crops(tmp_path, 1.0)
    monkeypatch.setattr(watching, "event", lambda *_: SimpleNamespace(id="1", crop=None))
    monkeypatch.setattr(Path, "write_bytes", full)
    track: Any = SimpleNamespace(fused=None, best=SimpleNamespace(image=np.zeros((20, 60, 3), np.uint8)))
    watch._give("a", [track])
    assert [event.crop for event in told] == [None]
    assert capsys.readouterr().err.splitlines() == [
        f"lpr: the crop {tmp_path / 'lpr-1.jpg'} cannot be written: No space left on device"
    ]


class Refusing:
    """A receiver that takes nothing."""

    def send(self, body: str) -> None:
        raise NotTaken("no")

    def close(self) -> None:
        pass


class Told:
    """An event."""

    id = "1"

    def model_dump_json(self) -> str:
        return '{"id": "1"}'


def telling(tmp_path: Path) -> Any:
    options = SimpleNamespace(events=tmp_path / "events", webhook=None, mqtt=None, queue=tmp_path / "queue")
    options.quiet = False
    return run._telling(options, [])


def test_an_event_goes_to_stdout_where_the_queue_cannot_be_written(tmp_path, monkeypatch, capsys):
    made: list[Outbox] = []

    def kept(*arguments: Any) -> Outbox:
        made.append(Outbox(*arguments))
        return made[0]

    monkeypatch.setattr(run, "Outbox", kept)
    with telling(tmp_path) as tell:
        made[0]._connection.execute("pragma query_only = 1")
        tell(Told())
    said = capsys.readouterr()
    assert said.out == '{"id": "1"}\n'
    assert said.err == (
        "lpr: events: its queue cannot be written (attempt to write a readonly database): event 1 is lost\n"
    )


@pytest.mark.parametrize("events", [True, False])
def test_events_for_a_receiver_that_is_not_named_are_told(tmp_path, capsys, events):
    queue = tmp_path / "a queue"
    outbox = Outbox(queue, {"webhook": Refusing()}, first_s=60)
    outbox.accept("{}")
    outbox.close()
    options = SimpleNamespace(events=tmp_path / "events" if events else None, webhook=None, mqtt=None, queue=queue)
    with run._telling(options, []):
        pass
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert f"1 events wait in {queue} for --webhook, which is not named now" in line
    program, file, statement = shlex.split(line.partition(" them with ")[2])
    assert (program, file) == ("sqlite3", str(queue))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)
    with run._telling(options, []):
        pass
    assert capsys.readouterr().err == ""


def test_no_queue_is_made_without_receivers(tmp_path):
    with run._telling(SimpleNamespace(events=None, webhook=None, mqtt=None, queue=tmp_path / "queue"), []):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_full_disks_under_stdout_and_stderr_do_not_end_the_watching(tmp_path, monkeypatch):
    with open("/dev/full", "w", buffering=1) as out, open("/dev/full", "w", buffering=1) as err:
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        with telling(tmp_path) as tell:
            tell(Told())
        monkeypatch.undo()
        for stream in (out, err):
            with suppress(OSError):
                stream.close()
    assert (tmp_path / "events").read_text() == '{"id": "1"}\n'


def test_old_crops_that_cannot_be_deleted_are_told(tmp_path, monkeypatch, capsys):
    os.utime(Crops(tmp_path, 1.0).keep("old", np.zeros((20, 60, 3), np.uint8)), (time.time() - 3601,) * 2)
    monkeypatch.setattr(Path, "unlink", full)
    Crops(tmp_path, 1.0)
    assert capsys.readouterr().err.startswith("lpr: 1 old crops cannot be deleted: ")


def test_crops_need_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadParameter, match="name another folder"):
        Crops(tmp_path / "file", 1.0)


@pytest.mark.parametrize("name", ["none/events", "."])
def test_events_need_a_file_that_can_be_appended_to(tmp_path, name):
    with pytest.raises(BadParameter, match="Events cannot be appended"):
        run._receivers(SimpleNamespace(events=tmp_path / name, webhook=None, mqtt=None), [])
