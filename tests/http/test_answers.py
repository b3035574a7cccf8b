"""What is counted of a request to read."""

import numpy as np

from service.errors import UndecodableImage
from service.finding.refine import Refined
from service.http.answers import record
from service.metrics import Metrics
from service.pipeline.items import Empty, Seen, Timing
from service.reading.text import Candidate, Reading
from tests.test_metrics import samples

CORNERS = np.zeros((4, 2), np.float32)


def seen(text: str, probability: float | None = None) -> Seen:
    """A text of confidence 0.4, on a crop, or on a plate that is one with this probability."""
    plate = None if probability is None else Refined(CORNERS, probability, 1, "blue", False)
    reading = Reading(text, 0.4, (), (), (Candidate(text, 0.4),))
    return Seen(9, 9, np.zeros((1, 2), np.float32), reading, plate=plate)


def test_plates_are_counted_by_image_and_what_is_too_unsure_is_none():
    metrics = Metrics("tiny", "1", "none", [UndecodableImage.slug])
    street = (seen("A", 0.97), seen("", 0.97), seen("B", 0.1))  # the last one is too unsure to be a plate
    outcomes = [street, (Empty(),), (UndecodableImage("x"),), (seen("C"),), (seen(""),)]
    record(metrics, "tiny", outcomes, Timing(*[0.001] * 8))
    found = samples(metrics)
    assert [found["lpr_plates_per_image_bucket", "tiny", le] for le in ("0.0", "1.0", "2.0", "+Inf")] == [2, 3, 4, 4]
    assert found["lpr_plates_total", "tiny"] == 2  # those with a text
    assert found["lpr_confidence_count", "tiny"] == 4  # the empty street has none
    assert found["lpr_errors_total", "tiny", UndecodableImage.slug] == 1
    assert {key[2] for key in found if key[0] == "lpr_stage_seconds_count"} >= {"find", "rectify"}
