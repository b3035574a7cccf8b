"""Sources of frames: files, streams and cameras, each read by a thread of its own.

A live source keeps only its newest frame: what is not taken in time is dropped. It is opened again, with back-off,
whenever it ends. A file hands over each frame and waits until it is taken.
"""

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import BadParameter, LprError, brief, printable, quoted
from service.reading.geometry import Pixels
from service.video.addresses import split
from service.video.messages import say

FIRST_S, MOST_S = 1.0, 60.0  # seconds between two tries to open a source
KNOWN: Final = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtp", "udp", "tcp", "tls", "mmsh")
SCHEMES: Final = (*KNOWN, "srt")  # srt only where PyAV was built with it
USAGE: Final = (
    "The address of a stream is SCHEME://HOST, with USER:PASSWORD@, :PORT and /PATH if needed. "
    "Other characters in a user or password, such as [ and /, are percent-encoded."
)
LOCAL: Final = "file://"
LOCAL_USAGE: Final = "The address of a file is file:///PATH, percent-encoded; the path alone does as well."
SILENT_S: Final = 10.0  # seconds without a packet, after which a stream has ended
PLANAR: Final = (
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuvj422p",
    "yuv444p",
    "nv12",
    "gray",
)  # their first plane is the luma


class NoVideo(LprError):
    """A source that cannot be opened, or that ended with an error."""


class Frame(ABC):
    """A frame, at `time` seconds since its camera's start."""

    def __init__(self, time: float) -> None:
        self.time = time

    @property
    @abstractmethod
    def luma(self) -> NDArray[np.uint8]:
        """Its brightness (H, W)."""

    @abstractmethod
    def bgr(self) -> Pixels:
        """Its pixels (H, W, 3)."""


class PixelFrame(Frame):
    """A frame of BGR pixels."""

    def __init__(self, time: float, pixels: Pixels) -> None:
        super().__init__(time)
        self._pixels = pixels

    @property
    def luma(self) -> NDArray[np.uint8]:
        """The green channel, which is most of the brightness."""
        return self._pixels[..., 1]

    def bgr(self) -> Pixels:
        """The pixels as they came."""
        return self._pixels


class DecodedFrame(Frame):
    """A frame as PyAV decoded it. It becomes BGR only where it is searched."""

    def __init__(self, time: float, frame: Any) -> None:
        super().__init__(time)
        self._frame = frame

    @property
    def luma(self) -> NDArray[np.uint8]:
        """The decoder's own plane, without a copy."""
        if self._frame.format.name not in PLANAR:
            return np.asarray(self._frame.to_ndarray(format="gray"), np.uint8)
        plane = self._frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return rows[: self._frame.height, : self._frame.width]

    def bgr(self) -> Pixels:
        """The pixels, converted now."""
        return np.asarray(self._frame.to_ndarray(format="bgr24"), np.uint8)


@dataclass(frozen=True)
class Source:
    """A camera's name, and where its frames come from: a file, an address, or the number or device of a camera."""

    name: str
    address: str

    @property
    def live(self) -> bool:
        """Whether frames come when they come."""
        return "://" in self.address or self.device is not None

    @property
    def device(self) -> int | str | None:
        """The number or device of a camera of this machine."""
        if self.address.isdecimal():
            return int(self.address)
        return self.address if self.address.startswith("/dev/video") else None


def parse(text: str) -> Source:
    """`NAME=ADDRESS` or `ADDRESS`, whose host, file or device gives the name then. Raises BadParameter."""
    name, equals, address = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]{1,64}", name) or _only_whole(text, address):
        name, address = "", text
    if address.startswith(LOCAL):
        address = _path(address)
    host = _host(address) if "://" in address else Path(address).stem
    source = Source(name or re.sub(r"[^\w.-]+", "-", host or "camera")[:64], address)
    if not source.live and not Path(address).is_file():
        raise BadParameter(f"{printable(address)!r} is no file, address or camera.")
    return source


def _only_whole(text: str, address: str) -> bool:
    """Whether a text is a file, and what stands after its = is none, nor anything else."""
    return not (Source("", address).live or Path(address).is_file()) and Path(text).is_file()


def _path(address: str) -> str:
    """The path of a file's address: it is watched as any file is, and not as a stream."""
    parts = split(address, LOCAL_USAGE)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadParameter(LOCAL_USAGE)
    return unquote(parts.path)


def _host(address: str) -> str | None:
    """The host of a stream, where its address has one."""
    scheme = address.partition("://")[0]
    if scheme not in SCHEMES:  # PyAV, too, knows them in small letters only
        raise BadParameter(f"There is no stream of {quoted(scheme)}: an address begins with one of {', '.join(KNOWN)}.")
    return split(address, USAGE).hostname


class Mailbox:
    """The frames that wait, at most one of each camera. Threads share it."""

    def __init__(self) -> None:
        self._frames: dict[str, Frame] = {}  # the camera that has waited longest is the first
        self._change = threading.Condition()
        self._open: set[str] = set()
        self.dropped = 0
        self.closed = False

    def join(self, camera: str) -> None:
        """A camera is going to put frames."""
        with self._change:
            self._open.add(camera)

    def put(self, camera: str, frame: Frame, wait: bool) -> bool:
        """Put a frame, once the one before is taken if `wait`, else in its place; False once nobody takes any."""
        with self._change:
            while wait and camera in self._frames and not self.closed:
                self._change.wait()
            self.dropped += camera in self._frames
            self._frames[camera] = frame
            self._change.notify_all()
            return not self.closed

    def leave(self, camera: str) -> None:
        """A camera puts no more frames."""
        with self._change:
            self._open.discard(camera)
            self._change.notify_all()

    def take(self, timeout: float) -> tuple[str, Frame] | None:
        """The newest frame of the camera that has waited longest; None where none came in time, or all have left."""
        with self._change:
            self._change.wait_for(lambda: self._frames or self.closed or not self._open, timeout)
            if not self._frames:
                return None
            camera = next(iter(self._frames))
            frame = self._frames.pop(camera)
            self._change.notify_all()
            return camera, frame

    def holds(self, camera: str) -> bool:
        """Whether a frame of a camera waits."""
        with self._change:
            return camera in self._frames

    @property
    def done(self) -> bool:
        """Whether no frame can come any more."""
        with self._change:
            return self.closed or not (self._open or self._frames)

    def close(self) -> None:
        """Take no more frames."""
        with self._change:
            self.closed = True
            self._change.notify_all()


class Feeder(threading.Thread):
    """Reads one source into a mailbox. `error` says why a file could not be read."""

    def __init__(self, source: Source, mailbox: Mailbox, fps: float, realtime: bool = False) -> None:
        """At most `fps` frames a second are handed over. A file plays at its own pace if `realtime`, else at once."""
        super().__init__(name=f"camera {source.name}", daemon=True)
        self.source, self.start_time = source, _start(source)
        self.error: NoVideo | None = None
        self._mailbox, self._fps, self._realtime = mailbox, fps, realtime
        self._stop = threading.Event()
        mailbox.join(source.name)

    def run(self) -> None:
        """Read until the end of a file, or until the mailbox is closed."""
        try:
            if self.source.live:
                self._forever()
            else:
                self._once()
        except NoVideo as error:
            self.error = error
        finally:
            self._mailbox.leave(self.source.name)

    def stop(self) -> None:
        """End a wait for the next try."""
        self._stop.set()

    def _forever(self) -> None:
        wait = FIRST_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._once()
                reason = "it ended"
            except NoVideo as error:
                reason = str(error)
            wait = FIRST_S if time.monotonic() - began > MOST_S else min(2 * wait, MOST_S)
            if not self._stop.is_set():
                say(f"camera {self.source.name}: {reason}; again in {wait:g} s")
            self._stop.wait(wait)

    def _once(self) -> None:
        due, begin = 0.0, time.monotonic()
        for frame in frames(self.source):
            if self.source.live:
                frame.time = time.time() - self.start_time
            elif self._realtime:
                self._stop.wait(max(0.0, begin + frame.time - time.monotonic()))
            if self._stop.is_set():
                return
            if frame.time + 1e-3 < due:
                continue
            due = max(due + 1 / self._fps, frame.time)
            if not self._mailbox.put(self.source.name, frame, wait=not (self.source.live or self._realtime)):
                return


def frames(source: Source) -> Iterator[Frame]:
    """The frames of a source, with times since its beginning. Raises NoVideo where it cannot be opened or read."""
    return _captured(source.device) if source.device is not None else _decoded(source.address)


def _captured(device: int | str) -> Iterator[Frame]:
    capture = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            raise NoVideo(f"camera {device} cannot be opened")
        while (read := capture.read())[0]:
            yield PixelFrame(time.monotonic(), np.asarray(read[1], np.uint8))
    finally:
        capture.release()


def _decoded(address: str) -> Iterator[Frame]:
    av = _av()
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    try:
        with av.open(_url(address), options=options, timeout=SILENT_S if "://" in address else None) as container:
            if not container.streams.video:
                raise NoVideo("it has no video")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # there are as many threads as cameras
            begin = None
            for frame in container.decode(stream):
                at = float(frame.time or 0.0)
                begin = at if begin is None else begin
                yield DecodedFrame(at - begin, frame)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise NoVideo(_without_password(brief(error), address)) from error


def _url(address: str) -> str:
    """What FFmpeg opens: it would take a file such as 12:30.mp4 for an address."""
    return address if "://" in address else f"file:{address}"


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Files and streams need PyAV, which the extra `video` installs: pip install 'lpr[video]' ({error})."
        ) from error
    return av


def _without_password(text: str, address: str) -> str:
    """The text without an address that may hold a password."""
    return text.replace(address, "the address") if "://" in address else text


def _start(source: Source) -> float:
    """The Unix time of the first frame: now, or, of a file, when it was last written less its length."""
    if source.device is not None:
        return time.time()
    av = _av()  # or the error, before any thread starts
    if source.live:
        return time.time()
    written = Path(source.address).stat().st_mtime
    try:
        with av.open(_url(source.address)) as container:
            return written - float(container.duration or 0) / 1e6
    except (av.FFmpegError, OSError, ValueError):  # which reading it will tell
        return written
