"""Hostile and unusual images: every accepted type in every kind of pixel, and damage of each."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112  # EXIF
MAX_MUTATIONS = 6
HEADER = 64  # bytes at the beginning, where the structure is: half of the mutations hit it


@dataclass(frozen=True)
class Case:
    """One file to send: what it was made of, what was done to it, and what the client says that it is."""

    number: int
    seed: str
    mutation: str
    media_type: str
    data: bytes


def plain(width: int = 94, height: int = 24) -> Image.Image:
    """A smooth colourful image."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


@cache
def seeds() -> dict[str, bytes]:
    """Valid images of all kinds by name; what stands before the first hyphen is the type."""
    image = plain()
    deep, deep_grey = (np.asarray(each).astype(np.uint16) * 257 for each in (image, image.convert("L")))
    found = {
        "jpeg": _save(image, "JPEG"),
        "jpeg-grey": _save(image.convert("L"), "JPEG"),
        "jpeg-cmyk": _save(image.convert("CMYK"), "JPEG"),
        "jpeg-progressive": _save(image, "JPEG", progressive=True),
        "jpeg-444": _save(image, "JPEG", subsampling=0, quality=98),
        "jpeg-restarts": _save(image, "JPEG", restart_marker_blocks=2),
        "png": _save(image, "PNG"),
        "png-grey": _save(image.convert("L"), "PNG"),
        "png-1-bit": _save(image.convert("1"), "PNG"),
        "png-palette": _save(image.quantize(64), "PNG"),
        "png-palette-alpha": _save(image.quantize(64), "PNG", transparency=3),
        "png-alpha": _save(transparent(), "PNG"),
        "png-grey-alpha": _save(image.convert("LA"), "PNG"),
        "png-16-bit": _encode(".png", deep[:, :, ::-1]),
        "png-grey-16-bit": _encode(".png", deep_grey),
        "png-animated": _save(image, "PNG", save_all=True, append_images=[Image.new("RGB", image.size, "red")]),
        "bmp": _save(image, "BMP"),
        "bmp-grey": _save(image.convert("L"), "BMP"),
        "bmp-palette": _save(image.quantize(64), "BMP"),
        "bmp-32-bit": _save(image.convert("RGBA"), "BMP"),
        "webp": _save(image, "WEBP"),
        "webp-lossless": _save(image, "WEBP", lossless=True),
        "webp-alpha": _save(transparent(), "WEBP"),
        "webp-animated": _save(
            image, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", image.size, "red")]
        ),
    }
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for kind in ("jpeg", "png", "webp"):
            found[f"{kind}-turned-{orientation}"] = _save(image, kind.upper(), exif=exif)
    return found


def transparent() -> Image.Image:
    """The plain image on its left half; the right half is transparent, and black beneath."""
    image = Image.new("RGBA", plain().size, (0, 0, 0, 0))
    image.paste(plain().crop((0, 0, 47, 24)), (0, 0))
    return image


@cache
def bombs() -> dict[str, bytes]:
    """Small files that announce, or cost, far more than they should."""
    side = 50_000
    png = bytearray(_save(plain(), "PNG"))
    png[16:24] = struct.pack(">II", side, side)
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    jpeg = bytearray(_save(plain(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(_save(plain(), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, -side)
    canvas = (16_384 - 1).to_bytes(3, "little")  # the largest that WebP can say
    webp = bytearray(_save(plain(), "WEBP", save_all=True, append_images=[plain().rotate(180)]))
    webp[24:30] = canvas * 2
    return {
        "jpeg-bomb": bytes(jpeg),
        "jpeg-scan-bomb": scan_bomb(2000, plain(500, 500)),
        "png-bomb": bytes(png),
        "png-text-bomb": _png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 * 1024**2), 9)),
        "png-profile-bomb": _png_with(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * 1024**2), 9)),
        "bmp-bomb": bytes(bmp),
        "webp-bomb": bytes(webp),
    }


def scan_bomb(scans: int, image: Image.Image) -> bytes:
    """A progressive JPEG with its last scan repeated: a few bytes each, and the work of a whole image."""
    data = _save(image, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scans * last + data[-2:]


@cache
def polyglots() -> dict[str, bytes]:
    """Files that are two things at a time."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr(zipfile.ZipInfo("a.txt"), "a")  # which has no time of today
    script = b"<html><script>alert(1)</script>"
    jpeg, png = _save(plain(), "JPEG"), _save(plain(), "PNG")
    return {
        "jpeg-zip": jpeg + archive.getvalue(),
        "jpeg-html": _save(plain(), "JPEG", comment=script),
        "jpeg-png": jpeg + png,
        "jpeg-in-comment": _save(plain(), "JPEG", comment=jpeg),
        "png-jpeg": png + jpeg,
        "png-html": _png_with(b"tEXt", b"a\0" + script),
        "png-two-headers": _png_with(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
        "bmp-zip": _save(plain(), "BMP") + archive.getvalue(),
        "webp-zip": _save(plain(), "WEBP") + archive.getvalue(),
    }


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """`count` files: first every seed, bomb and polyglot as it is, then mutations; the same for the same `seed`."""
    random_ = random.Random(seed)
    whole = seeds() | bombs() | polyglots()
    for number, (name, data) in zip(range(count), whole.items(), strict=False):
        yield Case(number, name, "none", _media_type(name), data)
    names = [*seeds(), *polyglots()]
    for number in range(len(whole), count):
        name, mutation = random_.choice(names), random_.choice([*MUTATIONS])
        kind = name if random_.random() < 0.9 else random_.choice(names)  # some say that they are something else
        yield Case(number, name, mutation, _media_type(kind), MUTATIONS[mutation](random_, whole[name]))


def _truncate(random_: random.Random, data: bytes) -> bytes:
    return data[: random_.randrange(len(data))]


def _flip(random_: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random_.randint(1, MAX_MUTATIONS)):
        changed[_place(random_, data)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _overwrite(random_: random.Random, data: bytes) -> bytes:
    """Bytes that parsers treat in a special way, or any."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, MAX_MUTATIONS)):
        new = random_.choice((b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80", random_.randbytes(2)))
        at = _place(random_, data)
        changed[at : at + len(new)] = new
    return bytes(changed)


def _delete(random_: random.Random, data: bytes) -> bytes:
    at = _place(random_, data)
    return data[:at] + data[at + random_.randint(1, 40) :]


def _repeat(random_: random.Random, data: bytes) -> bytes:
    at = _place(random_, data)
    part = data[at : at + random_.randint(1, 200)]
    return data[:at] + random_.randint(2, 50) * part + data[at:]


def _splice(random_: random.Random, data: bytes) -> bytes:
    """The beginning of one image and the end of another."""
    other = random_.choice([*seeds().values()])
    return data[: _place(random_, data)] + other[_place(random_, other) :]


def _noise(random_: random.Random, data: bytes) -> bytes:
    """The beginning is right, the rest is noise."""
    keep = random_.randint(2, HEADER)
    return data[:keep] + random_.randbytes(max(0, len(data) - keep))


Mutation = Callable[[random.Random, bytes], bytes]
MUTATIONS: Mapping[str, Mutation] = {
    "truncated": _truncate,
    "bits flipped": _flip,
    "bytes overwritten": _overwrite,
    "bytes deleted": _delete,
    "bytes repeated": _repeat,
    "spliced": _splice,
    "noise": _noise,
}


def _place(random_: random.Random, data: bytes) -> int:
    return random_.randrange(min(len(data), HEADER) if random_.random() < 0.5 else len(data))


def _media_type(name: str) -> str:
    return f"image/{name.split('-')[0]}"


def _save(image: Image.Image, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def _encode(extension: str, image: NDArray[np.integer]) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()


def _png_with(kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk, just after its header."""
    png = _save(plain(), "PNG")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]
