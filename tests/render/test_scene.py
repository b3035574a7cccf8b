"""Rendered scenes: the same from the same seed, true corners, what is hidden or cut is not asked for."""

import math
import random
from collections import Counter

import cv2
import numpy as np
import pytest

from model_builder.plates.kinds import CHINA, PALETTE, PLATES
from model_builder.render import scene_parts as parts
from model_builder.render.plate_art import Drawing
from model_builder.render.scene import Scene, SceneRenderer, _Draft, _share_within, _turned
from model_builder.render.scene_camera import _dazzle
from model_builder.render.scene_pen import Pen, pose, project, warp
from model_builder.render.scene_plates import COLOURS, _name, _printed
from model_builder.render.scene_text import Lines
from service.finding.canvas import FILL

SIZE = (320, 256)


@pytest.fixture(scope="module")
def renderer() -> SceneRenderer:
    return SceneRenderer()


@pytest.fixture(scope="module")
def scenes(renderer: SceneRenderer) -> list[Scene]:
    return [renderer.scene(seed, SIZE) for seed in range(120)]


def test_the_seed_decides_the_scene(renderer, scenes):
    again = SceneRenderer().scene(7, SIZE)
    np.testing.assert_array_equal(again.image, scenes[7].image)
    np.testing.assert_array_equal([p.corners for p in again.plates], [p.corners for p in scenes[7].plates])
    assert any((scenes[7].image != scene.image).any() for scene in scenes[8:10])


def test_scenes_have_the_canvas_size_and_none_to_four_plates(scenes):
    assert {scene.image.shape for scene in scenes} == {(256, 320, 3)}
    counts = Counter(len(scene.plates) for scene in scenes)
    assert set(counts) <= {0, 1, 2, 3, 4}
    assert counts[0] >= 5
    assert counts[1] >= 20


def test_plates_have_all_sizes_rows_and_directions(scenes):
    plates = [plate for scene in scenes for plate in scene.plates]
    spans = [np.ptp(plate.corners, axis=0).max() for plate in plates]
    assert min(spans) < 20
    assert max(spans) > 250
    assert {plate.rows for plate in plates} == {1, 2}
    assert {plate.colour for plate in plates} <= set(COLOURS)
    assert any(plate.kind.startswith("cn-") for plate in plates)
    assert any(plate.kind in ("latin-1", "latin-2") for plate in plates)  # made up
    rows = [plate.corners[1] - plate.corners[0] for plate in plates]
    quarters = Counter(round(math.atan2(y, x) / (math.pi / 2)) % 4 for x, y in rows)
    assert set(quarters) == {0, 1, 2, 3}
    assert quarters[0] > len(plates) / 2


def test_plates_of_other_countries_occur_american_ones_most(scenes):
    known = {plate.name: plate.rows for plate in PLATES if plate not in CHINA}
    plates = [plate for scene in scenes for plate in scene.plates if plate.kind in known]
    assert Counter(plate.kind for plate in plates).most_common(1)[0][0] == "us"
    assert len({plate.kind for plate in plates}) > 10
    assert all(plate.rows == known[plate.kind] for plate in plates)


@pytest.mark.parametrize("name", ["us", "de", "br-two-rows"])
def test_a_printed_plate_reaches_the_edges_of_its_image(name):
    (plate,) = [plate for plate in PLATES if plate.name == name]
    rng = random.Random(2)
    drawing = Drawing(rng, plate, plate.draw(rng), None)
    drawing.paper[:], drawing.ink[:] = drawing.body[..., None], 0
    image = _printed(drawing)
    assert (image > 0).mean() > 0.98
    assert image[..., 0].size == pytest.approx((drawing.body > 127).sum(), rel=0.02)


def test_papers_are_named():
    expected = {"white": "white", "cream": "other", "sky": "other", "navy": "blue", "energy-green": "green"}
    assert {paper: _name(PALETTE[paper]) for paper in expected} == expected
    assert {_name(colours.top) for plate in CHINA for colours in plate.colours} <= set(COLOURS) - {"other"}


def test_a_dealers_frame_lies_outside_the_plate_and_over_its_edge():
    reaches = []
    for seed in range(40):
        image = np.full((300, 500, 3), 7, np.uint8)
        pen = Pen(image, np.array([[1, 0, 250], [0, 1, 150], [0, 0, 1.0]]))
        parts.plate_frame(random.Random(seed), pen, Lines(), 300, 150)
        rows = (image != 7).any(2).any(1).nonzero()[0]
        reaches.append(max(75 - rows[0], rows[-1] - 224))
        assert (image[100:200, 115:385] == 7).all()
        assert rows[0] >= 74 - 0.12 * 150
        assert rows[-1] <= 226 + 0.12 * 150
    assert max(reaches) > 0.08 * 150


def test_some_scenes_leave_grey_around_a_smaller_photograph(scenes):
    assert any((scene.image[-20:] == FILL).all() for scene in scenes)
    assert any((scene.image[:, -20:] == FILL).all() for scene in scenes)


def test_photographs_are_drawn_on_where_there_are_any(tmp_path):
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((200, 300, 3), (0, 0, 255), np.uint8))
    backgrounds = SceneRenderer([path]).backgrounds
    backgrounds.procedural = 0.0
    drawn = backgrounds.draw(random.Random(0), np.random.Generator(np.random.SFC64(0)), (64, 32))
    assert drawn.shape == (32, 64, 3)
    assert (drawn == (0, 0, 255)).all()


def test_a_broken_photograph_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    renderer = SceneRenderer([tmp_path / "broken.jpg"])
    renderer.backgrounds.procedural = 0.0
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        renderer.scene(1, SIZE)


def test_a_plate_is_drawn_where_its_corners_say():
    """A white plate warped on black: its moments are those of the quad."""
    view = pose(random.Random(3), (150, 120), 0.3, 0.4, steep=True)
    quad = project(view, [(-220, -70), (220, -70), (220, 70), (-220, 70)])
    seen = warp(np.full((80, 250), 255, np.uint8), quad, (256, 320))
    assert seen is not None
    image = np.zeros((256, 320), np.uint8)
    part, (x, y) = seen
    image[y : y + part.shape[0], x : x + part.shape[1]] = part
    expected, found = cv2.moments(quad.astype(np.float32)), cv2.moments(image)
    assert found["m00"] / 255 == pytest.approx(expected["m00"], rel=0.02)
    for moment in ("m10", "m01"):  # pixel i covers i - 0.5 to i + 0.5 to OpenCV, i to i + 1 to our corners
        middle = expected[moment] / expected["m00"] - 0.5
        assert found[moment] / found["m00"] == pytest.approx(middle, abs=0.2)


def test_quarter_turns_take_the_corners_along():
    image = np.zeros((30, 50), np.uint8)
    image[4, 40] = 255
    for turns in range(4):
        (row,), (column,) = np.nonzero(np.rot90(image, turns))
        ((x, y),) = _turned(np.array([[40.5, 4.5]]), turns, 50, 30)
        assert (x, y) == (column + 0.5, row + 0.5)


def test_what_is_covered_is_gone_and_what_is_partly_covered_unsure(renderer):
    draft = _Draft(renderer, random.Random(0), np.random.Generator(np.random.SFC64(0)))
    art = renderer.artist.draw(random.Random(0))
    box = np.array([[0, 0], [20, 0], [20, 10], [0, 10]], float)
    draft.plates = [(art, box + np.array([x, 20])) for x in (10, 60, 150)]
    draft.cover(np.array([[0, 0], [70, 0], [70, 90], [0, 90]], float))
    assert [corners[0, 0] for _, corners in draft.plates] == [150]
    assert [corners[0, 0] for corners in draft.hidden] == [60]
    assert not draft.free(box + np.array([155, 25]))
    assert draft.free(box + np.array([100, 20]))


def test_the_share_of_a_plate_within_the_picture():
    quad = np.array([[-10, 0], [30, 0], [30, 10], [-10, 10]], float)
    assert _share_within(quad, 100, 100) == pytest.approx(0.75)
    assert _share_within(quad + 40, 100, 100) == pytest.approx(1)
    assert _share_within(quad + np.array([400, 0]), 100, 100) == pytest.approx(0)


def test_lines_drawn_far_outside_do_not_break():
    image = np.zeros((40, 40, 3), np.uint8)
    pen = Pen(image, pose(random.Random(1), (20, 20), 50.0, 1.0, steep=True))
    pen.box(-5000, -5000, 10000, 10000, (9, 9, 9))
    assert (image == 9).all()


@pytest.mark.parametrize("draw", [parts.head_lamp, parts.rear_lamp, parts.wheel])
@pytest.mark.parametrize("scale", [0.25, 0.01])
def test_parts_of_vehicles_keep_to_their_size(draw, scale):
    image = np.zeros((200, 200, 3), np.uint8)
    pen = Pen(image, np.array([[scale, 0, 100], [0, scale, 100], [0, 0, 1.0]]))
    assert pen.pixels(400) == pytest.approx(400 * scale)
    draw(random.Random(1), pen, 400, 240)
    rows, columns = image.any(2).nonzero()
    assert 0.3 * 400 * scale < np.ptp(columns) + 1 < 1.2 * 400 * scale + 3
    assert np.ptp(rows) + 1 < 1.6 * 400 * scale + 3


def test_lamps_lay_a_veil_over_what_is_around():
    image = np.full((60, 80, 3), 40, np.float32)
    _dazzle(random.Random(3), image, [(40.0, 30.0, 3.0)])
    assert image[30, 40].min() > image[30, 50].min() > 40
