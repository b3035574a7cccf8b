"""Rendered plates that look like photographs, at the input size of the reader, with their text.

A sample is drawn in four steps: a text of a kind of plate (`plates.PLATES`); its shapes as coverage masks on the plate
in mm (characters as strokes, border, dot, bolts, lettering on the frame); one perspective warp into the box that a
detector would cut; paint, light, lens, sensor and codec. Each sample has its own random generator, so a seed gives the
same plate on every machine with the same libraries and typefaces.
"""

import math
import random
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import CROP, glyphs
from model_builder.plates.kinds import (
    DRILL,
    PLATES,
    PROVINCES,
    SPECIAL,
    Plate,
    Slot,
)
from model_builder.plates.typefaces import Typefaces
from service.reading.geometry import prepare

Image = NDArray[np.uint8]
Floats = NDArray[Any]  # float32 in memory, which the stubs of OpenCV and NumPy can't follow

SCALE = 0.55  # pixels per mm of the canvas on which shapes are drawn
MARGIN = 40.0  # mm of surroundings drawn around the plate
WIDTH, HEIGHT = 141, 36  # the photographed crop, one and a half times the network's input
_CJK = frozenset(PROVINCES + SPECIAL)
_GLYPH_SCALE, _BORDER = 0.8, 4.0  # pixels per mm of a character's mask, and mm around its cell
_LIGHTEST, _STEP, _WEIGHTS = 0.55, 0.1, 11  # pens from 0.55 to 1.55 of a glyph's own width
_BENDS = 12  # different bends kept per character and pen


class Sample(NamedTuple):
    """A rendered crop, uint8 (24, 94, 3) BGR, its text and the name of its kind of plate."""

    image: Image
    text: str
    kind: str


class Renderer:
    """Draws samples. `fonts=False` uses our own strokes alone, whatever typefaces are installed."""

    def __init__(self, *, fonts: bool = True) -> None:
        self.glyphs = glyphs.load()
        self.typefaces = Typefaces() if fonts else None
        self._masks: dict[tuple[str, int, int], Image] = {}

    def sample(self, seed: int, kind: Plate | None = None) -> Sample:
        """The plate of this seed, of a kind drawn by its share or of the one given."""
        rng = random.Random(seed)
        noise = np.random.Generator(np.random.SFC64(seed))
        plate = kind or rng.choices(PLATES, [entry.share for entry in PLATES])[0]
        text = draw_text(rng, plate)
        shapes = self._shapes(rng, plate, text)
        warped: Floats = cv2.warpPerspective(
            shapes, _view(rng, plate), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        photo = _paint(rng, noise, plate, text, warped)
        return Sample(_photograph(rng, noise, photo), text, plate.name)

    def _shapes(self, rng: random.Random, plate: Plate, text: str) -> Image:
        """Coverage on the canvas, uint8 (H, W, 3): ink, plate, and what lies on top (bolts, frame lettering)."""
        size = round((plate.height + 2 * MARGIN) * SCALE), round((plate.width + 2 * MARGIN) * SCALE)
        ink, body, extra = np.zeros(size, np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        cv2.rectangle(body, _pixel(0, 0), _pixel(plate.width, plate.height), 255, -1, cv2.LINE_AA, 4)
        style = _Lettering(rng)
        for character, slot in zip(text, plate.slots, strict=True):
            self._character(rng, ink, character, slot, style)
        if plate.dot and rng.random() < 0.9:
            cv2.circle(ink, _pixel(*plate.dot), round(rng.uniform(4, 6.5) * SCALE * 16), 255, -1, cv2.LINE_AA, 4)
        if rng.random() < 0.85:  # the painted border line
            inset, line = rng.uniform(3, 9), max(1, round(rng.uniform(1.2, 4) * SCALE))
            strength = rng.choice((255, 255, 180, 110))
            corners = _pixel(inset, inset), _pixel(plate.width - inset, plate.height - inset)
            cv2.rectangle(ink, *corners, strength, line, cv2.LINE_AA, 4)
        if rng.random() < 0.7:
            _bolts(rng, extra, plate)
        if rng.random() < 0.3:
            _frame_lettering(rng, extra, plate)
        return np.asarray(cv2.merge((ink, body, extra)), np.uint8)

    def _character(self, rng: random.Random, ink: Image, character: str, slot: Slot, style: "_Lettering") -> None:
        """Draw one character into its slot: our strokes, slightly bent, or the form of a typeface."""
        chinese = character in _CJK
        height = slot.height * (style.chinese_height if chinese else style.height)
        width = slot.width * (style.chinese_width if chinese else style.width) * rng.uniform(0.97, 1.03)
        left = slot.x + (slot.width - width) / 2 + rng.gauss(0, 0.7)
        top = slot.y + (slot.height - height) / 2 + rng.gauss(0, 0.8) + (style.chinese_drop if chinese else 0)
        share = style.typeface_chinese if chinese else style.typeface_latin
        if self.typefaces is not None and share is not None:
            mask = self.typefaces.mask(character, share)
            if mask is not None:
                free = 0.06 if chinese else 0.0  # the share of the cell that our own forms leave free
                box = left + free * width, top + free * height, (1 - 2 * free) * width, (1 - 2 * free) * height
                _paste(ink, mask, *box)
                return
        weight = style.weight * (style.chinese_weight if chinese else 1.0)
        step = min(max(round((weight - _LIGHTEST) / _STEP), 0), _WEIGHTS - 1)
        mask = self._stroked(character, step, rng.randrange(_BENDS))
        border_x, border_y = width * _BORDER / glyphs.CELL_WIDTH, height * _BORDER / glyphs.CELL_HEIGHT
        _paste(ink, mask, left - border_x, top - border_y, width + 2 * border_x, height + 2 * border_y)

    def _stroked(self, character: str, step: int, variant: int) -> Image:
        """One of our own forms, slightly bent, painted with a pen of the given weight; cached."""
        key = character, step, variant
        mask = self._masks.get(key)
        if mask is None:
            rng = random.Random(f"{character}{step}.{variant}")
            form = self.glyphs[character][variant % len(self.glyphs[character])]
            points = _bend(rng, np.concatenate(form.strokes), 1.6 if character in _CJK else 1.3)
            strokes = tuple(np.split(points, np.cumsum([len(stroke) for stroke in form.strokes[:-1]])))
            width = form.width * (_LIGHTEST + _STEP * step)
            large = glyphs.rasterize(strokes, width, 4 * _GLYPH_SCALE, _BORDER)
            size = round(large.shape[1] / 4), round(large.shape[0] / 4)
            mask = self._masks[key] = np.asarray(cv2.resize(large, size, interpolation=cv2.INTER_AREA), np.uint8)
        return mask


def draw_text(rng: random.Random, plate: Plate) -> str:
    """A text of one of the plate's templates; as in real serials, digits outnumber letters and repeats are frequent."""
    template = rng.choice(plate.templates)
    letters = rng.choice((0.1, 0.3, 0.6))
    text = ""
    for allowed in template:
        digits = [character for character in allowed if character.isdigit()]
        if text and text[-1] in allowed and rng.random() < 0.12:
            text += text[-1]
        elif digits and len(digits) < len(allowed) and rng.random() > letters:
            text += rng.choice(digits)
        else:
            text += rng.choice(allowed)
    return text


class _Lettering:
    """Properties that all characters of one plate share: proportions, weight of the strokes, typeface."""

    def __init__(self, rng: random.Random) -> None:
        self.weight = rng.choice((rng.uniform(0.8, 1.2), rng.uniform(0.6, 1.45)))
        self.height, self.width = rng.uniform(0.94, 1.03), rng.uniform(0.92, 1.05)
        # Our forms leave an eighth of the cell free. On real plates a Chinese character is 80 to 100 % as high as a
        # letter, most are above 90 %; it is as wide or a little wider, and covers the same area.
        self.chinese_height, self.chinese_width = rng.uniform(0.93, 1.18), rng.uniform(0.92, 1.14)
        self.chinese_weight = rng.uniform(0.85, 1.45)
        self.chinese_drop = rng.gauss(0, 1.5)
        self.typeface_latin = rng.random() if rng.random() < 0.06 else None
        self.typeface_chinese = rng.random() if rng.random() < 0.12 else None


def _bend(rng: random.Random, points: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Smoothly displaced points of a character. Strokes that meet still meet."""
    x, y = points[:, 0], points[:, 1]
    wave_x = np.sin(x * rng.uniform(-0.09, 0.09) + y * rng.uniform(-0.05, 0.05) + rng.uniform(0, math.tau))
    wave_y = np.sin(x * rng.uniform(-0.09, 0.09) + y * rng.uniform(-0.05, 0.05) + rng.uniform(0, math.tau))
    dx = rng.gauss(0, strength * 0.7) * wave_x + rng.gauss(0, 0.015) * (45 - y)
    return np.stack((x + dx, y + rng.gauss(0, strength * 1.2) * wave_y), 1)


def _pixel(x: float, y: float) -> tuple[int, int]:
    """Canvas position of a plate position in mm, in OpenCV's fixed point with 4 fractional bits."""
    return round((x + MARGIN) * SCALE * 16), round((y + MARGIN) * SCALE * 16)


def _paste(ink: Image, mask: Image, left: float, top: float, width: float, height: float) -> None:
    x, y = round((left + MARGIN) * SCALE), round((top + MARGIN) * SCALE)
    w, h = max(2, round(width * SCALE)), max(2, round(height * SCALE))
    patch = cv2.resize(mask, (w, h), interpolation=cv2.INTER_LINEAR)
    np.maximum(ink[y : y + h, x : x + w], patch, out=ink[y : y + h, x : x + w])


def _bolts(rng: random.Random, extra: Image, plate: Plate) -> None:
    for x in (plate.width * 0.25, plate.width * 0.75):
        for y in (12.0, plate.height - 12.0):
            if rng.random() < 0.6:
                radius = round(rng.uniform(3, 9) * SCALE * 16)
                center = _pixel(x + rng.gauss(0, 12), y + rng.gauss(0, 4))
                cv2.circle(extra, center, radius, rng.randint(90, 255), -1, cv2.LINE_AA, 4)


def _frame_lettering(rng: random.Random, extra: Image, plate: Plate) -> None:
    """The lettering of a dealer on the frame, above or below the plate: marks that must not be read."""
    y = rng.choice((-rng.uniform(8, 30), plate.height + rng.uniform(8, 30)))
    x, end, strength = rng.uniform(0, 120), plate.width - rng.uniform(0, 120), rng.randint(60, 230)
    size = rng.uniform(5, 13)
    while x < end:
        step = size * rng.uniform(0.5, 1.0)
        a, b = _pixel(x, y + rng.uniform(-size, size) / 2), _pixel(x + step, y + rng.uniform(-size, size) / 2)
        cv2.line(extra, a, b, strength, rng.choice((1, 1, 2)), cv2.LINE_AA, 4)
        cv2.line(extra, _pixel(x, y - size / 2), _pixel(x, y + size / 2), strength, 1, cv2.LINE_AA, 4)
        x += step + rng.uniform(1, 4)


def _rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    cy, sy, cp, sp, cr, sr = (f(angle) for angle in (yaw, pitch, roll) for f in (math.cos, math.sin))
    return np.array(  # roll @ pitch @ yaw
        [
            [cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy],
            [sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy],
            [-cp * sy, sp, cp * cy],
        ]
    )


def _view(rng: random.Random, plate: Plate) -> Floats:
    """Homography from the canvas to the crop: a pose before a pinhole camera, and the box of a detector."""
    steep = rng.random() < 0.45
    yaw = math.radians(rng.gauss(0, 28 if steep else 12))
    pitch = math.radians(rng.gauss(0, 20 if steep else 8))
    roll = math.radians(rng.gauss(0, 8 if steep else 2.5))
    rotation = _rotation(yaw, pitch, roll)
    w, h = plate.width, plate.height
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]])
    spatial = (corners - (w / 2, h / 2)) @ rotation[:, :2].T
    distance = rng.uniform(1500, 6000)  # mm
    flat = spatial[:, :2] * (distance / (distance + spatial[:, 2:]))
    # the lens and the position of the camera: vertical strokes lean, rows slope
    flat += flat[:, ::-1] * (rng.gauss(0, 0.22 if steep else 0.06), rng.gauss(0, 0.15 if steep else 0.03))
    (left, top), (right, bottom) = flat.min(0).tolist(), flat.max(0).tolist()
    # margins of the crop as shares of the box of the plate: usually small, sometimes large, sometimes negative
    cut = rng.random()
    if cut < 0.55:
        loose = [rng.gauss(0.005, 0.02) for _ in range(2)] + [rng.gauss(0.01, 0.05) for _ in range(2)]
    elif cut < 0.8:
        loose = [rng.uniform(-0.01, 0.09) for _ in range(2)] + [rng.uniform(-0.03, 0.25) for _ in range(2)]
    else:
        loose = [rng.uniform(-0.07, 0.01) for _ in range(2)] + [rng.uniform(-0.15, 0.02) for _ in range(2)]
    left, right = left - loose[0] * (right - left), right + loose[1] * (right - left)
    top, bottom = top - loose[2] * (bottom - top), bottom + loose[3] * (bottom - top)
    target = (flat - (left, top)) * (WIDTH / (right - left), HEIGHT / (bottom - top))
    source = (corners + MARGIN) * SCALE
    return cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))


_X = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :]
_Y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]


def _color(values: list[float]) -> Floats:
    """A colour for planes, float32 (3, 1, 1). Channels come first because NumPy is slow over a last axis of 3."""
    return np.array(values, np.float32).reshape(3, 1, 1)


def _jitter(rng: random.Random, color: tuple[int, int, int], spread: float) -> Floats:
    return _color([min(max(c + rng.gauss(0, spread), 0), 255) for c in color])


def _ramp(rng: random.Random, low: float, high: float) -> Floats:
    """A plane of light over the crop, float32 (36, 141), values between about `low` and `high`."""
    angle, a, b = rng.uniform(0, math.tau), rng.uniform(low, high), rng.uniform(low, high)
    half = (b - a) / 2
    return np.float32(a + half) + (_X * (half * math.cos(angle)) + _Y * (half * math.sin(angle)))


def _paint(rng: random.Random, noise: np.random.Generator, plate: Plate, text: str, warped: Image) -> Floats:
    """Paint: coverage masks (36, 141, 3) -> float32 BGR planes (3, 36, 141), 0..255."""
    ink, body, extra = (plane * np.float32(1 / 255) for plane in cv2.split(warped))
    colours = rng.choice(plate.colours)
    spread = rng.choice((8, 20))
    paper = _jitter(rng, colours.top, spread)
    if colours.top != colours.bottom:
        t = np.clip((_Y + 1) / 2 * rng.uniform(0.8, 1.4) - rng.uniform(0, 0.3), 0, 1)
        paper = paper + (_jitter(rng, colours.bottom, spread) - paper) * t
    ink_color = _jitter(rng, colours.ink, 10) * np.float32(rng.uniform(0.75, 1))
    if colours.last is not None and text[-1] in _CJK:
        ink_color = np.where(1 - 2 / len(text) < _X, _jitter(rng, colours.last, 20), ink_color)
    if rng.random() < 0.15:  # worn or dirty ink
        ink = ink * np.clip(1.0 - _blotches(noise, rng.uniform(0.2, 0.8)), 0.25, 1)
    image = paper + (ink_color - paper) * ink
    if rng.random() < 0.25:  # embossing: light on one edge of the strokes, shade on the other
        shift = np.roll(ink, rng.choice((-1, 1)), rng.choice((0, 1)))
        image += (shift - ink) * np.float32(rng.uniform(-45, 45))
    background = _surroundings(rng, noise)
    image -= background
    image *= body
    image += background
    if extra.any():
        shade = rng.uniform(20, 240)
        extra_color = _color([shade + rng.gauss(0, 8) for _ in range(3)])
        image += (extra_color - image) * (extra * np.float32(rng.uniform(0.5, 1)))
    if rng.random() < 0.3:  # dirt and rust
        dirt = _color([rng.uniform(30, 90), rng.uniform(50, 120), rng.uniform(60, 150)])
        image += (dirt - image) * _blotches(noise, rng.uniform(0.1, 0.6))
    image *= _ramp(rng, 0.7, 1.15)
    return image


def _blotches(noise: np.random.Generator, strength: float) -> Floats:
    """Soft random spots, float32 (36, 141), 0..strength."""
    coarse = noise.random((5, 14), np.float32) - 0.5
    spots = np.clip(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 2, 0, 1)
    return spots * np.float32(strength)


def _surroundings(rng: random.Random, noise: np.random.Generator) -> Floats:
    """What is seen around the plate: bumper, frame, shadow; float32 (3, 36, 141)."""
    base = rng.choice((rng.uniform(0, 60), rng.uniform(0, 255), rng.uniform(160, 255)))
    coarse = noise.standard_normal((rng.randint(2, 6), rng.randint(2, 10)), np.float32) * np.float32(rng.uniform(5, 50))
    texture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.clip(texture + _color([base + rng.gauss(0, 14) for _ in range(3)]), 0, 255)


def _photograph(rng: random.Random, noise: np.random.Generator, paint: Floats) -> Image:
    """Light, lens, sensor and codec: float32 planes (3, 36, 141) -> the network's input, uint8 (24, 94, 3)."""
    image = np.ascontiguousarray(_light(rng, noise, paint).transpose(1, 2, 0))
    image = _lens(rng, image)
    image = _exposure(rng, image)
    return _sensor(rng, noise, image)


def _light(rng: random.Random, noise: np.random.Generator, image: Floats) -> Floats:
    """Shadows, glare, night and colour casts on planes (3, 36, 141)."""
    kind = rng.random()
    if kind < 0.12:  # shadow edge across the plate
        angle = rng.uniform(0, math.tau)
        edge = (_X * math.cos(angle) + _Y * (math.sin(angle) * 0.5) - rng.uniform(-0.7, 0.7)) * rng.uniform(4, 40)
        image = image * (1 - np.float32(rng.uniform(0.3, 0.75)) / (1 + np.exp(-np.clip(edge, -30, 30))))
    elif kind < 0.22:  # glare or a headlight's spot
        x, y, size = rng.uniform(-1, 1), rng.uniform(-1.5, 1.5), rng.uniform(0.2, 0.9)
        spot = np.exp(-((_X - x) ** 2 + ((_Y - y) * 0.6) ** 2) / (2 * size * size))
        image = image + spot * np.float32(rng.uniform(30, 170))
    elif kind < 0.26:  # dappled light
        image = image * (1 - _blotches(noise, rng.uniform(0.4, 0.9)))
    tone = rng.random()
    if tone < 0.12:  # infrared or night: hardly any colour
        grey = image[0] * 0.2 + image[1] * 0.4 + image[2] * 0.4
        image = grey + (image - grey) * np.float32(rng.uniform(0, 0.3))
    elif tone < 0.6:
        grey = image[0] * 0.114 + image[1] * 0.587 + image[2] * 0.299
        image = grey + (image - grey) * np.float32(rng.uniform(0.4, 1.8))
    cast = 0.22 if rng.random() < 0.25 else 0.07
    return image * _color([math.exp(rng.gauss(0, cast)) for _ in range(3)])


def _lens(rng: random.Random, image: Floats) -> Floats:
    """Defocus, motion and low resolution; half of all plates are sharp, as most real ones are."""
    kind = rng.random()
    if kind < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    elif kind < 0.37:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.2), sigmaY=rng.uniform(0.4, 2.0))
    elif kind < 0.46:
        image = cv2.filter2D(image, -1, _motion(rng))
    if rng.random() < 0.2:  # few pixels on the sensor
        small = rng.randint(38, 94), rng.randint(10, 24)
        image = cv2.resize(image, small, interpolation=rng.choice((cv2.INTER_AREA, cv2.INTER_LINEAR)))
        image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
    return image


def _motion(rng: random.Random) -> Floats:
    """The path of a point during the exposure, as a filter kernel that sums to 1."""
    angle = rng.choice((0.0, math.pi / 2, rng.uniform(0, math.pi)))
    length = rng.randint(3, 6 if abs(math.sin(angle)) > 0.5 else 9)
    kernel = np.zeros((length, length), np.float32)
    center = (length - 1) / 2
    dx, dy = math.cos(angle) * center, math.sin(angle) * center
    ends = [round(v * 16) for v in (center - dx, center - dy, center + dx, center + dy)]
    cv2.line(kernel, (ends[0], ends[1]), (ends[2], ends[3]), 1.0, 1, cv2.LINE_AA, 4)
    return kernel / np.float32(max(float(kernel.sum()), 1e-6))


def _exposure(rng: random.Random, image: Floats) -> Floats:
    """Over- and under-exposure, haze and gamma. A floor on contrast keeps every plate readable."""
    kind = rng.random()
    mean = float(image.mean())
    if kind < 0.08:  # dark
        image = image * (rng.uniform(20, 70) / max(mean, 20))
    elif kind < 0.16:  # haze or a veil of light: little contrast at any level
        image = rng.uniform(40, 200) + (image - mean) * rng.uniform(0.1, 0.4)
    elif kind < 0.30:  # over-exposed
        image = image * rng.uniform(1.2, 2.0)
    elif kind < 0.75:
        image = (image - mean) * rng.uniform(0.5, 1.5) + mean + rng.gauss(0, 22)
    if rng.random() < 0.3:
        image = 255 * np.power(np.clip(image, 0, 255) / 255, rng.uniform(0.6, 1.6))
    image = np.clip(image, 0, 255)
    contrast = float(image.std())
    if contrast < 5:
        mean = float(image.mean())
        image = np.clip(mean + (image - mean) * (5 / max(contrast, 0.5)), 0, 255)
    return image


def _sensor(rng: random.Random, noise: np.random.Generator, image: Floats) -> Image:
    """Noise, sharpening, codec, and the resize that serving does."""
    contrast = float(image.std())
    if rng.random() < 0.4:  # a camera's sharpening halo
        image = image + (image - cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.5))) * rng.uniform(0.3, 1.8)
    if rng.random() < 0.5:
        sigma = min(16 * rng.random() ** 1.5, 0.4 * contrast)
        grain = noise.standard_normal((HEIGHT, WIDTH, 3), np.float32)
        image = image + (grain if rng.random() < 0.5 else cv2.merge((grain[..., 0],) * 3)) * np.float32(sigma)
    photo = np.clip(image, 0, 255).astype(np.uint8)
    late = rng.random() < 0.5  # the codec sees the crop or the whole photograph
    if late:
        photo = prepare(photo, CROP)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, rng.randint(35, 95) if late else rng.randint(18, 95)]
        photo = np.asarray(cv2.imdecode(cv2.imencode(".jpg", photo, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return photo if late else prepare(photo, CROP)


def batch(renderer: Renderer, seed: int, count: int, *, drill: float = 0.0) -> tuple[Image, list[str]]:
    """`count` plates with seeds seed, seed + 1, ...: images uint8 (count, 24, 94, 3) and their texts.

    `drill` is the share of them that shows Chinese characters only (`plates.DRILL`).
    """
    images, texts = np.empty((count, 24, 94, 3), np.uint8), []
    drills = np.random.default_rng(seed).random(count) < drill
    for index in range(count):
        sample = renderer.sample(seed + index, DRILL if drills[index] else None)
        images[index] = sample.image
        texts.append(sample.text)
    return images, texts
