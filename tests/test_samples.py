"""Every published variant, over HTTP, on the rendered plates in samples/."""

from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest

from service.artifact import readers
from service.settings import Settings
from tests.support.artifacts import EACH_PUBLISHED, PUBLISHED
from tests.support.images import encode
from tests.support.samples import FOLDER, SAMPLES
from tests.support.servers import running


@pytest.fixture(scope="module", params=EACH_PUBLISHED)
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a server of this variant, for crops."""
    with (
        running(Settings(variant=request.param, finder=None, threads=1)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def test_the_baseline_is_published():
    assert "baseline" in readers(PUBLISHED)


def test_samples_are_read(client):
    for file, text in SAMPLES:
        answer = client.post("/recognize", files={"image": (file, (FOLDER / file).read_bytes())}).json()
        (plate,) = answer["results"][0]["plates"]
        assert plate["text"] == text
        assert plate["valid_format"]
        assert [character["char"] for character in plate["characters"]] == list(text)
        assert plate["candidates"][0] == {"text": text, "confidence": plate["confidence"]}
        assert plate["box"] == [[0, 0], [94, 0], [94, 24], [0, 24]]


def test_several_plates_in_one_request_are_read_as_alone(client):
    parts = [("image", (file, (FOLDER / file).read_bytes())) for file, _ in SAMPLES]
    results = client.post("/recognize", files=parts).json()["results"]
    assert [result["filename"] for result in results] == [file for file, _ in SAMPLES]
    assert [result["plates"][0]["text"] for result in results] == [text for _, text in SAMPLES]


def test_a_large_jpeg_which_is_decoded_reduced_is_read_as_if_decoded_whole(client):
    for file, text in SAMPLES:
        image = cv2.resize(cv2.imread(str(FOLDER / file)), (1880, 480), interpolation=cv2.INTER_CUBIC)
        jpeg = encode(".jpg", image)
        whole = encode(".bmp", cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
        answers = client.post("/recognize", files=[("image", jpeg), ("image", whole)]).json()
        reduced, expected = (result["plates"][0] for result in answers["results"])
        assert (reduced["text"], reduced["box"]) == (expected["text"], expected["box"])
        assert (reduced["text"], reduced["box"][2]) == (text, [1880, 480])
        assert reduced["confidence"] == pytest.approx(expected["confidence"], abs=0.02)


def test_a_plate_of_which_a_character_is_hidden_is_less_sure(client):
    image = cv2.imread(str(FOLDER / "blue.png"))
    sure = []
    for column in range(32, 86, 10):
        hidden = image.copy()
        hidden[:, column : column + 10] = 90
        answer = client.post("/recognize", params={"min_confidence": 0}, files={"image": encode(".png", hidden)})
        sure.append(answer.json()["results"][0]["plates"][0]["confidence"])
    whole = client.post("/recognize", files={"image": encode(".png", image)}).json()["results"][0]["plates"][0]
    assert whole["confidence"] > 0.95
    assert np.mean(sure) < 0.8
