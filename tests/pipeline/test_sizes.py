"""A network whose input is not 24x94 is served and measured like any other: its manifest tells the size."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from model_builder import evaluate
from model_builder.train.data import Crops
from service import backends
from service.artifact import find, write
from service.reading import decode, geometry
from tests.support.answers import JPEG
from tests.support.artifacts import TINY_TEXT, describe, save_tiny_model
from tests.support.images import encode, picture

SIZE = (20, 48)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    for name, size in (("usual", (24, 94)), ("odd", SIZE)):
        (root / name).mkdir()
        save_tiny_model(root / name, TINY_TEXT, size)
        write(root / name, describe(name, size))
    return root


@pytest.fixture(scope="module")
def odd(serving, root) -> httpx.Client:
    return serving(artifacts=root, variant="odd", shadow="usual", shadow_share=1)


@pytest.mark.parametrize("size", [(94, 24), (48, 20), (30, 10), (1600, 800)])
@pytest.mark.parametrize("variant", ["odd", "usual"])
def test_images_of_any_size_are_read_with_it(odd, variant, size):
    response = odd.post(f"/recognize?variant={variant}", content=encode(".jpg", picture(*size)), headers=JPEG)
    assert response.json()["results"][0]["plates"][0]["text"] == TINY_TEXT, response.text
    assert odd.get("/readyz").status_code == 200


def test_crops_of_that_size_are_taken_as_they_are(odd):
    assert odd.get("/v2/models/odd").json()["inputs"][1]["shape"] == [-1, *SIZE, 3]
    crop = picture(*SIZE[::-1])
    tensor = {"name": "input", "shape": [1, *crop.shape], "datatype": "UINT8", "data": crop.ravel().tolist()}
    response = odd.post("/v2/models/odd/infer", json={"inputs": [tensor]})
    assert response.json()["outputs"][0]["data"] == [TINY_TEXT], response.text
    tensor["shape"] = [1, 24, 94, 3]
    assert odd.post("/v2/models/odd/infer", json={"inputs": [tensor]}).status_code == 400


def test_the_builder_measures_it(root):
    artifact = find(root, "odd")
    backend = backends.load(artifact)
    crops = Crops(np.stack([picture(), picture()]), [TINY_TEXT, "another"])
    assert evaluate.accuracy(artifact, backend, crops).exact == 1
    assert evaluate.latency(backend, threads=1, repeats=3, size=artifact.reader.size).median > 0
    backend.close()


def test_a_large_photograph_is_decoded_no_smaller_than_the_network_needs():
    data = encode(".jpg", picture(1600, 800))
    for wanted in (SIZE, (24, 94), (96, 192)):
        reduced = decode.decode_plate(decode.check(data, 2_000_000), 2_000_000, wanted).pixels
        assert reduced.shape[0] >= decode.MARGIN * wanted[0]
        assert reduced.shape[1] >= decode.MARGIN * wanted[1]
        assert geometry.prepare(reduced, wanted).shape == (*wanted, 3)
