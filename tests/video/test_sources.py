"""Sources: files, streams, and the mailbox between them and the watching thread."""

import threading

import av
import numpy as np
import pytest

from service.errors import BadParameter
from service.video import sources
from service.video.sources import Feeder, Mailbox, NoVideo, PixelFrame, Source, frames, parse


def frame(time: float = 0.0) -> PixelFrame:
    return PixelFrame(time, np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def film(tmp_path):
    """A video of 20 frames, 10 a second; the first is dark, each is brighter."""
    file = tmp_path / "film.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10, width=64, height=48, pix_fmt="yuv420p")
        for number in range(20):
            pixels = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    return file


def test_a_file_gives_its_frames_with_their_times(film):
    seen = list(frames(Source("film", str(film))))
    assert [round(one.time, 3) for one in seen] == [number / 10 for number in range(20)]
    assert seen[10].luma.shape == (48, 64)
    assert abs(seen[10].bgr().mean() - 100) < 5


def test_a_file_is_handed_over_frame_by_frame(film):
    mailbox = Mailbox()
    feeder = Feeder(Source("film", str(film)), mailbox, fps=5)
    feeder.start()
    taken = []
    while not mailbox.done:
        if one := mailbox.take(1.0):
            taken.append(round(one[1].time, 1))
    assert taken == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8]
    assert (mailbox.dropped, feeder.error) == (0, None)


def test_a_file_that_is_no_video_tells_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(NoVideo):
        list(frames(Source("a", str(tmp_path / "a.mp4"))))


def test_the_newest_frame_replaces_one_that_was_not_taken():
    mailbox = Mailbox()
    mailbox.join("a")
    for time in range(5):
        mailbox.put("a", frame(time), wait=False)
    camera, taken = mailbox.take(1.0)
    assert (camera, taken.time, mailbox.dropped) == ("a", 4, 4)


def test_no_camera_waits_for_a_faster_one():
    mailbox = Mailbox()
    for camera in ("slow", "fast"):
        mailbox.join(camera)
    mailbox.put("fast", frame(1), wait=False)
    mailbox.put("slow", frame(1), wait=False)
    mailbox.put("fast", frame(2), wait=False)
    assert mailbox.take(1.0)[0] == "fast"
    mailbox.put("fast", frame(3), wait=False)
    assert mailbox.take(1.0)[0] == "slow"


def test_who_waits_to_put_ends_with_the_mailbox():
    mailbox = Mailbox()
    mailbox.join("a")
    mailbox.put("a", frame(), wait=True)
    said = []
    waiting = threading.Thread(target=lambda: said.append(mailbox.put("a", frame(), wait=True)))
    waiting.start()
    mailbox.close()
    waiting.join(10)
    assert said == [False]


def test_a_live_source_is_opened_again_with_back_off(monkeypatch, capsys):
    opened, waits = [], []
    mailbox = Mailbox()

    def breaking(source):
        opened.append(source)
        yield frame()
        raise NoVideo("the connection broke")

    feeder = Feeder(Source("a", "rtsp://camera/1"), mailbox, fps=5)

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 4:
            feeder.stop()

    monkeypatch.setattr(sources, "frames", breaking)
    monkeypatch.setattr(feeder._stop, "wait", wait)
    feeder.run()
    assert len(opened) == 4
    assert waits == [2.0, 4.0, 8.0, 16.0]
    assert "camera a: the connection broke; again in 2 s" in capsys.readouterr().err
    assert mailbox.take(0)[0] == "a"


def test_no_password_is_told(monkeypatch):
    address = "rtsp://user:secret@127.0.0.1:1/stream"
    with pytest.raises(NoVideo) as raised:
        list(frames(Source("a", address)))
    assert "secret" not in str(raised.value)
    assert parse(address).name == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "name", "live"),
    [
        ("gate=rtsp://host/1?a=b", "gate", True),
        ("rtsp://host/1?a=b", "host", True),
        ("0", "0", True),
        ("yard=/dev/video2", "yard", True),
    ],
)
def test_sources_have_names(text, name, live):
    source = parse(text)
    assert (source.name, source.live) == (name, live)


@pytest.mark.parametrize(
    ("name", "camera"), [("cam=2.mp4", "cam-2"), ("12:30.mp4", "12-30"), ("a b#?%20.mp4", "a-b-20")]
)
@pytest.mark.parametrize("form", [str, lambda path: path.as_uri()])
def test_a_file_may_have_any_name_and_be_given_as_an_address(film, monkeypatch, name, camera, form):
    monkeypatch.chdir(film.parent)
    source = parse(form(film.rename(film.parent / name)))
    assert (source, source.live) == (Source(camera, str(film.parent / name)), False)
    assert next(frames(source)).luma.shape == (48, 64)
    source = parse(name)
    assert (source, source.live) == (Source(camera, name), False)
    assert next(frames(source)).luma.shape == (48, 64)
    assert Feeder(source, Mailbox(), fps=5).start_time < (film.parent / name).stat().st_mtime - 1


def test_a_name_before_a_file_comes_first(film, monkeypatch):
    monkeypatch.chdir(film.parent)
    film.with_name(f"cam={film.name}").write_bytes(b"")
    assert parse(f"cam={film.name}") == Source("cam", film.name)
    assert parse(f"cam={film.as_uri()}") == Source("cam", str(film))
    film.with_name("desk=0").write_bytes(b"")
    assert parse("desk=0") == Source("desk", "0")


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://[::1",
        "gate=rtsp://user:secret@host:port/1",
        "rtsp://user:secret@host:99999/1",
        "rtsp://user:secret[@host/1",
        "rtsp://gate..lan/1",
        "file://host/secret.mp4",
        "file:///secret.mp4?1",
        "file:///none.mp4",
        "file:///%00",
    ],
)
def test_a_malformed_address_is_refused(text):
    with pytest.raises(BadParameter) as raised:
        parse(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["udp://@:5004", "rtp://@239.0.0.1:5004", "tcp://:5004?listen"])
def test_a_stream_may_have_no_host(text):
    assert parse(text).live


def test_a_file_that_is_not_there_is_refused(film):
    assert parse(str(film)).name == "film"
    assert parse(f"front={film}") == Source("front", str(film))
    with pytest.raises(BadParameter, match="no file, address or camera"):
        parse("none.mp4")


@pytest.mark.parametrize("text", ["rtps://user:secret@host/1", "gate=RTSP://host/1"])
def test_a_scheme_that_is_not_known_is_refused(text):
    with pytest.raises(BadParameter, match="one of rtsp, ") as raised:
        parse(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("scheme", sources.KNOWN)
def test_pyav_knows_each_scheme(scheme):
    with pytest.raises(av.FFmpegError) as raised:
        av.open(f"{scheme}://127.0.0.1:1/none", timeout=0.1)
    assert not isinstance(raised.value, av.error.ProtocolNotFoundError)
