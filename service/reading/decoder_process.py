"""Decoding of GIF, TIFF, AVIF and HEIC in a process of its own, which ends when it takes too much time or memory.

These formats are rare, and their decoders have no bounds that could be checked beforehand. The process runs this very
file as a script: the image comes on stdin; its size and its pixels, or why there are none, go to stdout.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL import Image

FORMATS: Final = ("GIF", "TIFF", "AVIF", "HEIC")
EXTRA: Final = "pillow_heif"  # the module that reads HEIC
SPARE_S, PIXEL_S = 0.5, 1.5e-7  # seconds of CPU time: for any image, and for each of its pixels besides
SPARE_BYTES, PIXEL_BYTES = 64 * 1024**2, 24  # of memory, likewise
OVERLOADED: Final = 20  # times as long may it take by the clock, where other processes have the CPUs
READ, TOO_LARGE, NO_DECODER = "read", "too large", "no decoder"  # how the answer begins


def run(data: bytes | bytearray, kind: str, max_pixels: int) -> tuple[str, int, int, bytes]:
    """READ, width, height and BGR pixels of an encoded image; or TOO_LARGE with its size; or NO_DECODER; or "".

    Orientation is applied, and transparency lies on white.
    """
    command = [sys.executable, "-P", __file__, kind, str(max_pixels)]
    longest = OVERLOADED * (2 * SPARE_S + PIXEL_S * max_pixels)
    try:
        answer = subprocess.run(
            command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=longest, check=False
        ).stdout
    except (subprocess.TimeoutExpired, OSError):  # or no process can be started here
        return "", 0, 0, b""
    said, _, pixels = answer.partition(b"\n")
    match said.decode("ascii").split("\t"):
        case [word, width, height]:
            return word, int(width), int(height), pixels
    return "", 0, 0, b""


def has_decoder(kind: str) -> bool:
    """Whether this installation can read a format, as far as is known without loading its decoder."""
    return kind != "HEIC" or find_spec(EXTRA) is not None


def main(kind: str, max_pixels: int) -> None:
    """Answer for the image on stdin."""
    import io
    import signal

    from PIL import Image, ImageOps, features

    for ending in (signal.SIGINT, signal.SIGTERM):  # those are meant for the server, which finishes what it accepted
        signal.signal(ending, signal.SIG_IGN)
    Image.MAX_IMAGE_PIXELS = None  # there is a limit of our own
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener(thumbnails=False)
    if kind == "AVIF":
        if not features.check("avif"):
            _answer(NO_DECODER, 0, 0)
            return
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    data = sys.stdin.buffer.read()
    _limit(0)
    with Image.open(io.BytesIO(data), formats=["HEIF" if kind == "HEIC" else kind]) as image:
        width, height = image.size
        if width * height > max_pixels:
            _answer(TOO_LARGE, width, height)
            return
        _limit(width * height)
        flat = _over_white(ImageOps.exif_transpose(image))
        _answer(READ, *flat.size, flat.tobytes("raw", "BGR"))


def _limit(pixels: int) -> None:
    """From here on, the CPU time and memory for an image of so many pixels; beyond it, the system ends the process."""
    import resource
    import signal

    signal.setitimer(signal.ITIMER_PROF, SPARE_S + PIXEL_S * pixels)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + SPARE_BYTES + PIXEL_BYTES * pixels
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def _over_white(image: "Image.Image") -> "Image.Image":
    """An image of any mode as RGB, as it is seen on a white page; its colours alone if nothing of it is opaque."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, of which the upper half counts
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "RGB":
        return image
    layer = image.convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema()[1] == 0:
        return layer.convert("RGB")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=alpha)
    return flat


def _answer(word: str, width: int, height: int, pixels: bytes = b"") -> None:
    sys.stdout.buffer.write(f"{word}\t{width}\t{height}\n".encode() + pixels)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
