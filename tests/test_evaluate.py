"""Measuring: intervals, and readings through the serving code."""

import random
from contextlib import closing

import numpy as np
import pytest

from model_builder import calibrate, evaluate
from model_builder.measure import by_kind, by_view, reliability, thresholds
from model_builder.plates import CROP
from model_builder.plates.kinds import GRAMMAR, PLATES, Plate, shares
from model_builder.render.plate import Renderer, draw_text
from model_builder.train import labels
from model_builder.train.data import VALIDATION_SEED, Crops, validation_set
from service import artifact as contract
from service.backends import load
from service.reading.geometry import prepare
from service.reading.text import Reading
from service.settings import REPOSITORY
from tests.support.artifacts import TINY_TEXT, path_of
from tests.support.images import encode, picture


@pytest.mark.parametrize(
    ("exact", "total", "low", "high"),
    [  # after Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson(exact, total, low, high):
    score = evaluate.wilson(exact, total)
    assert (score.exact, score.total) == (exact, total)
    assert score.low == pytest.approx(low, abs=1e-4)
    assert score.high == pytest.approx(high, abs=1e-4)


def test_accuracy_counts_the_readings_of_the_serving_code(tiny):
    backend = load(tiny)
    images = np.stack([prepare(picture(120 + 10 * i, 40), CROP) for i in range(4)])
    crops = Crops(images, [TINY_TEXT, "沪A12345", TINY_TEXT, TINY_TEXT[:-1]])
    assert [reading.text for reading in evaluate.readings(tiny, backend, crops)] == [TINY_TEXT] * 4
    assert evaluate.accuracy(tiny, backend, crops) == evaluate.wilson(2, 4)


def test_latency_is_of_so_many_calls_on_so_many_plates(tiny):
    class Counting:
        """The tiny backend, and the shapes it was called with."""

        def __init__(self) -> None:
            self.backend = load(tiny)
            self.shapes: list[tuple[int, ...]] = []
            self.engine = self.backend.engine

        def infer(self, batch: np.ndarray) -> np.ndarray:
            self.shapes.append(batch.shape)
            return self.backend.infer(batch)

        def close(self) -> None:
            self.backend.close()

    backend = Counting()
    times = evaluate.latency(backend, threads=1, batch=3, repeats=20, size=CROP)
    assert (times.threads, times.batch, times.repeats) == (1, 3, 20)
    assert len(backend.shapes) > 20  # some to warm up
    assert set(backend.shapes) == {(3, 24, 94, 3)}
    assert 0 < times.median <= times.p95


def test_the_machine_has_a_name():
    assert evaluate.machine().strip()


def test_the_shipped_set_is_read_whole_and_is_not_the_validation_set(capsys):
    crops = labels.read_set(evaluate.SHIPPED)
    assert crops.images.shape == (500, 24, 94, 3)
    assert capsys.readouterr().out == ""  # none was left out
    assert all(GRAMMAR.formats_of(text) for text in crops.texts)
    validated = {text_of(VALIDATION_SEED + number) for number in range(2000)}
    assert text_of(VALIDATION_SEED) == validation_set(1).texts[0]
    assert not validated & set(crops.texts)


def text_of(seed: int) -> str:
    """What the renderer writes on the plate of a seed, without drawing it."""
    rng = random.Random(seed)
    return draw_text(rng, rng.choices(PLATES, shares(PLATES))[0])


def reading(text: str, confidence: float) -> Reading:
    return Reading(text, confidence, (), (), ())


def test_the_table_of_thresholds_tells_what_is_kept_and_what_of_it_is_exact(tmp_path):
    plates = [reading("A", 1), reading("B", 0.6), reading("A", 0.6), reading("A", 0.02), reading("", 1)]
    judged = thresholds.judge(plates, ["A"] * 5)
    (tmp_path / "wall.png").write_bytes(encode(".png"))
    walls = thresholds.judge([reading("A", 0.07)], thresholds.whole([tmp_path]).texts)
    rows = [line.strip("| ").split(" | ") for line in thresholds.table(judged, judged[:1], walls).splitlines()]
    assert rows[0][1:] == [
        *("keeps of 5 rendered", "of which exact", "exact ones kept"),
        *("keeps of 1 photographs", "of which exact", "exact ones kept"),
        "keeps of 1 without a plate",
    ]
    found = {row[0]: row[1:] for row in rows[2:]}
    assert found["0"] == ["100.0 %", "60.0 %", "100.0 %", *["100.0 %"] * 3, "100.0 %"]
    assert found["0.1"] == ["60.0 %", "66.7 %", "66.7 %", *["100.0 %"] * 3, "0.0 %"]
    assert found["0.75"] == ["20.0 %", "100.0 %", "33.3 %", *["100.0 %"] * 3, "0.0 %"]
    assert len(rows[2]) == len(rows[0])
    assert "rendered" in thresholds.table(judged, [], []).splitlines()[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no image in"):
        thresholds.whole([tmp_path / "empty"])


def test_reliability_tells_of_each_confidence_how_many_readings_are_exact(tmp_path):
    judged = [thresholds.Judged(0.92, True)] * 19 + [thresholds.Judged(0.93, False), thresholds.Judged(1.0, True)]
    nine, sure = reliability.bins(judged)
    assert (nine.low, nine.high, nine.total, nine.exact) == (0.9, 0.95, 20, 19)
    assert nine.confidence == pytest.approx((19 * 0.92 + 0.93) / 20)
    assert (sure.total, sure.exact) == (1, 1)
    assert "| rendered | 0.9 to 0.95 | 20 | 92.1 % | 95.0 % (" in reliability.table({"rendered": judged})
    reliability.diagram(tmp_path / "reliability.svg", {"rendered": judged, "photographs": judged})
    assert "<svg" in (tmp_path / "reliability.svg").read_text(encoding="utf-8")


def test_the_temperature_fits_how_often_readings_are_exact(tiny):
    """Readings that are half sure and always right are too unsure; those that are often wrong are too sure."""

    class Half:
        """A backend that hesitates at the first character."""

        def infer(self, images: np.ndarray) -> np.ndarray:
            logits = path_of(TINY_TEXT)[None].astype(np.float32) * 0.5
            return np.repeat(logits, len(images), 0)

    images = np.zeros((40, *CROP, 3), np.uint8)
    right = calibrate.temperature(tiny, Half(), Crops(images, [TINY_TEXT] * 40))
    wrong = calibrate.temperature(tiny, Half(), Crops(images, [TINY_TEXT, TINY_TEXT[:-1]] * 20))
    assert right < wrong


def test_each_kind_of_plate_is_measured_for_itself(tiny):
    plates = [plate for plate in PLATES if plate.name in ("cn-blue", "de-two-rows")]
    rows = list(by_kind.measured(tiny, load(tiny), 3, plates))
    assert [row.name for row in rows] == ["cn-blue", "de-two-rows", "all of two rows", "all"]
    assert [(row.total, row.once, row.exact) for row in rows] == [
        (3, 0, 0),
        (3, 0, 0),
        (3, 0, 0),
        (6, 0, 0),
    ]  # it reads one text only
    assert rows[0].other_length == 0
    assert rows[1].other_length == sum(len(text) != 7 for text in _texts(plates[1]))
    assert rows[1].given == rows[1].other_length  # the text that it reads is sure
    assert "| all | 6 | 0.0 % (0.0 to " in by_kind.table(rows)


def _texts(plate: Plate) -> list[str]:
    return [Renderer().sample(VALIDATION_SEED + number, plate).text for number in range(3)]


def test_several_views_are_measured_beside_one(tiny):
    once, several = by_view.measured(tiny, load(tiny), 4)
    assert (once.views, several.views, once.total, once.again) == (1, 5, 4, 0)
    assert 0 <= several.again <= 4
    assert "| 5 | 4 | 0.0 % (0.0 to " in by_view.table([once, several])  # it reads one text only


@pytest.mark.slow
def test_several_views_of_unsure_plates_are_read_better_than_one():
    artifact = contract.find(REPOSITORY / "artifacts", "world-quantized")
    with closing(load(artifact)) as backend:
        once, several = by_view.measured(artifact, backend, 300)
    assert several.exact > once.exact + 3  # 6 to 10, by the typefaces that are installed
