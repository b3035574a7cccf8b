"""Interfaces of other products: their documented fields, and the requests that public clients of them send."""

import json
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
import requests
from codeprojectai import core as codeproject

from service.settings import Settings
from tests.support.answers import JPEG, KEY
from tests.support.artifacts import TINY_TEXT
from tests.support.images import encode, png_bomb
from tests.support.photographed import BOTH, FAR, NEAR
from tests.support.photographs import TEXTS, overlap
from tests.support.servers import Serving, running

READER, ALPR = "/v1/plate-reader/", "/v1/vision/alpr"
BOTH_NAMES = ("plate-recognizer", "codeproject")
TOKEN = {"Authorization": f"Token {KEY}"}


@pytest.fixture(scope="module")
def compatible(serving: Serving) -> httpx.Client:
    """A server that reads crops."""
    return serving(compatible=BOTH_NAMES, max_bytes=200_000, max_pixels=10_000)


@pytest.fixture(scope="module")
def keyed(serving: Serving) -> httpx.Client:
    """The same with a key."""
    return serving(compatible=BOTH_NAMES, api_keys=KEY)


@pytest.fixture(scope="module")
def street() -> Iterator[str]:
    """A server that finds plates."""
    with running(Settings(threads=1, compatible=BOTH_NAMES)) as url:
        yield url


def test_they_are_off_unless_named(serving, client):
    for path in (READER, ALPR):
        assert client.post(path, files={"upload": encode()}).status_code == 404
    alone = serving(compatible="codeproject")
    assert alone.post(ALPR, files={"upload": encode()}).status_code == 200
    assert alone.post(READER, files={"upload": encode()}).status_code == 404


def test_plate_recognizer_answers_the_documented_fields(street):
    """Of the reference: https://guides.platerecognizer.com/docs/snapshot/api-reference."""
    response = requests.post(
        street + READER,
        data={"regions": ["cn", "us-ca"], "camera_id": "gate", "timestamp": "2026-11-27T10:00:00Z", "mmc": "true"},
        files={"upload": ("car.png", encode(".png", BOTH))},
        timeout=60,
    )
    assert response.status_code == 201
    answer = response.json()
    documented = ["processing_time", "results", "filename", "version", "camera_id", "timestamp"]
    assert list(answer) == [*documented, "usage"]
    assert answer["processing_time"] > 0
    told = {name: answer[name] for name in ("filename", "version", "camera_id", "timestamp")}
    assert told == {"filename": "car.png", "version": 1, "camera_id": "gate", "timestamp": "2026-11-27T10:00:00Z"}
    assert [result["plate"] for result in answer["results"]] == [TEXTS["blue"].lower(), TEXTS["yellow"].lower()]
    for result, corners in zip(answer["results"], (NEAR, FAR), strict=True):
        fields = ["box", "plate", "region", "score", "candidates", "dscore", "vehicle"]
        assert list(result) == [*fields, "model_make", "color", "orientation"]
        assert list(result["box"]) == ["xmin", "ymin", "xmax", "ymax"]
        left, top, right, bottom = result["box"].values()
        assert overlap([(left, top), (right, bottom)], corners) > 0.6
        assert all(isinstance(value, int) for value in result["box"].values())
        assert result["candidates"][0] == {"score": result["score"], "plate": result["plate"]}
        assert result["region"]["code"] == "cn"
        assert 0.9 < result["dscore"] <= 1
        assert set(result["vehicle"]) == {"score", "type", "box"}


def test_codeproject_answers_the_documented_fields(street):
    """Of the reference: https://www.codeproject.com/ai/docs/api/api_reference.html, "License Plate Reader"."""
    answer = requests.post(street + ALPR, files={"upload": encode(".png", BOTH)}, timeout=60).json()
    assert list(answer) == [
        *("success", "message", "predictions", "count", "inferenceMs", "processMs", "moduleId", "moduleName"),
        *("command", "executionProvider", "canUseGPU", "analysisRoundTripMs"),
    ]
    assert (answer["success"], answer["count"]) == (True, 2)
    assert [one["plate"] for one in answer["predictions"]] == [TEXTS["blue"], TEXTS["yellow"]]
    for one in answer["predictions"]:
        assert list(one) == ["confidence", "label", "plate", "x_min", "y_min", "x_max", "y_max"]
        assert one["label"] == f"Plate: {one['plate']}"
        assert one["x_min"] < one["x_max"]
        assert one["y_min"] < one["y_max"]


def test_the_client_of_codeproject(compatible):
    """The package codeproject-ai-api. It has no function for plates, so what its functions call is called."""
    client = codeproject.CodeProjectAIObject("127.0.0.1", urlsplit(str(compatible.base_url)).port, min_confidence=0.2)
    client._url_detect = f"{client._url_base}/alpr"
    (found,) = client.detect(encode())
    assert found["plate"] == TINY_TEXT
    assert codeproject.get_objects([found]) == [f"Plate: {TINY_TEXT}"]
    assert codeproject.get_object_confidences([found], found["label"]) == [found["confidence"]]
    client.min_confidence = 1
    assert client.detect(encode()) == []
    with pytest.raises(codeproject.CodeProjectAIException, match="400"):
        client.detect(b"no image")


@pytest.mark.parametrize(("regions", "mmc"), [(None, False), (["gb", "ie"], True)])
def test_the_call_of_home_assistant(keyed, regions, mmc):
    """robmarkcole/HASS-plate-recognizer, `process_image`: what it sends, and every field that it takes."""
    answer = requests.post(
        f"{keyed.base_url}{READER}",
        data={"regions": regions, "camera_id": "platerecognizer_gate", "mmc": mmc, "config": json.dumps({})},
        files={"upload": encode()},
        headers=TOKEN,
        timeout=60,
    ).json()
    (result,) = answer["results"]
    assert TINY_TEXT.lower() in [candidate["plate"] for candidate in result["candidates"]]
    assert (result["plate"], result["region"]["code"]) == (TINY_TEXT.lower(), "cn")
    assert isinstance(result["vehicle"]["type"], str)
    assert all(isinstance(result["box"][name], int) for name in ("xmin", "ymin", "xmax", "ymax"))
    assert answer["usage"]["max_calls"] - answer["usage"]["calls"] > 0  # of a server other than the product's own
    assert not mmc or result["orientation"] == []


@pytest.mark.parametrize("path", ["/v1/plate-reader", "/v1/plate-reader/"])
def test_the_call_of_frigate_plate_recognizer(keyed, path):
    """ljmerza/frigate_plate_recognizer, `recognize_with_plate_recognizer`: its documented address ends without a slash,
    and a redirect would turn the POST into a GET."""
    with requests.Session() as session:
        response = session.post(
            f"{keyed.base_url}{path}", data={"regions": ["us-ca"]}, files={"upload": encode()}, headers=TOKEN
        )
    assert response.status_code in (200, 201)
    assert not response.history
    (result,) = response.json()["results"]
    assert result["candidates"][0]["plate"] == result["plate"] == TINY_TEXT.lower()


def test_the_call_of_frigate_plate_recognizer_to_codeproject(compatible):
    """The same, `recognize_with_code_project`."""
    with requests.Session() as session:
        response = session.post(f"{compatible.base_url}{ALPR}", files={"upload": encode()})
    response.raise_for_status()
    (prediction,) = response.json()["predictions"]
    assert (prediction["plate"], prediction["confidence"] > 0) == (TINY_TEXT, True)


def as_form(image: str) -> dict:
    return {"files": {"upload": (None, image)}}


def as_urlencoded(image: str) -> dict:
    return {"data": {"upload": image, "regions": ["cn", "de"], "camera_id": "ä & b"}}


def as_json(image: str) -> dict:
    return {"json": {"upload": image, "regions": ["cn"], "config": {"region": "strict"}, "mmc": True}}


@pytest.mark.parametrize("send", [as_form, as_urlencoded, as_json])
@pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
def test_an_image_in_base64(compatible, send, head):
    image = head + b64encode(encode(".png")).decode()
    response = requests.post(f"{compatible.base_url}{READER}", timeout=60, **send(image))
    assert response.status_code == 201, response.text
    assert response.json()["results"][0]["plate"] == TINY_TEXT.lower()
    assert response.json()["filename"] == "upload"
    if send is as_urlencoded:
        assert response.json()["camera_id"] == "ä & b"


EMPTY = {
    "form": {"files": {"upload": (None, ""), "image": encode()}},
    "file": {"files": {"upload": ("", b""), "image": encode()}},
    "after": {"files": [("image", encode()), ("upload", (None, ""))]},
    "urlencoded": {"data": {"upload": "", "image": b64encode(encode()).decode()}},
    "JSON": {"json": {"upload": "", "image": b64encode(encode()).decode(), "upload_url": ""}},
    "null": {"json": {"upload": None, "image": b64encode(encode()).decode(), "upload_url": None, "camera_id": None}},
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_field_counts_as_unset(compatible, case):
    response = compatible.post(READER, **EMPTY[case])
    assert response.status_code == 201, response.text
    assert response.json()["results"][0]["plate"] == TINY_TEXT.lower()
    assert response.json()["camera_id"] is None


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"upload": (None, ""), "upload_url": (None, "http://127.0.0.1/")}},
        {"files": {"upload": ("", b""), "upload_url": (None, "http://127.0.0.1/")}},
        {"data": {"upload": "", "upload_url": "http://127.0.0.1/"}},
        {"json": {"upload": "", "upload_url": "http://127.0.0.1/"}},
        {"json": {"upload": None, "upload_url": "http://127.0.0.1/"}},
    ],
)
def test_an_address_beside_an_empty_image_is_the_image(compatible, request_):
    assert "LPR_FETCH" in compatible.post(READER, **request_).json()["detail"]


@pytest.mark.parametrize(
    "request_", [{"files": {"upload": ("a.jpg", b"")}}, {"json": {"upload": None}}, {"json": {"upload_url": None}}]
)
def test_an_empty_image_alone_is_none(compatible, request_):
    assert "There is no image" in compatible.post(READER, **request_).json()["detail"]


def test_strict_regions_leave_only_their_texts(compatible):
    config = json.dumps({"region": "strict"})
    for regions, count in (("cn", 1), ("xx", 1)):
        data = {"regions": regions, "config": config}
        answer = compatible.post(READER, data=data, files={"upload": encode()}).json()
        assert len(answer["results"]) == count


def test_a_strict_region_is_any_country_that_the_reader_knows(street):
    data = {"regions": "us-ca", "config": json.dumps({"region": "strict"})}
    files = {"upload": encode(".png", BOTH)}
    answer = requests.post(street + READER, data=data, files=files, timeout=60).json()
    assert {result["region"]["code"] for result in answer["results"]} <= {"us"}
    assert not {result["plate"] for result in answer["results"]}.intersection(text.lower() for text in TEXTS.values())


def test_a_region_is_that_of_recognize(street):
    files = {"upload": encode(".png", BOTH)}
    answer = requests.post(street + READER, files=files, timeout=60).json()
    own = requests.post(street + "/recognize", files={"image": encode(".png", BOTH)}, timeout=60).json()
    regions = [plate["region"] for plate in own["results"][0]["plates"]]
    assert [result["region"] for result in answer["results"]] == [
        {"code": region["code"], "score": region["probability"]} for region in regions
    ]


def test_a_key_is_a_token(keyed):
    for headers in ({}, {"Authorization": "Token no key of this server"}):
        refused = keyed.post(READER, files={"upload": encode()}, headers=headers)
        assert refused.status_code == 403
        assert set(refused.json()) == {"detail", "status_code"}
    refused = keyed.post(ALPR, files={"upload": encode()})
    assert (refused.status_code, refused.json()["success"], refused.json()["code"]) == (401, False, 401)


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
LONG = "x" * 5000
REFUSED = {
    "no image": ({"files": {"other": b"x"}}, 400),
    "no field": ({"content": b""}, 400),
    "no image file": ({"files": {"upload": b"\0\1\2 is no image"}}, 400),
    "no base64": ({"data": {"upload": "§"}}, 400),
    "two images": ({"files": [("upload", encode()), ("image", encode())]}, 400),
    "two in one": ({"content": b"upload=AA&upload=AA", "headers": URLENCODED}, 400),
    "many parts": ({"files": [(f"f{n}", (None, "x")) for n in range(60)]}, 400),
    "many fields": ({"content": b"a=1&" * 100_00, "headers": URLENCODED}, 400),
    "long text": ({"files": {"upload": encode(), "regions": (None, LONG)}}, 400),
    "long field": ({"data": {"regions": LONG}}, 400),
    "long name": ({"content": LONG.encode() + b"=1", "headers": URLENCODED}, 400),
    "long in JSON": ({"json": {"regions": [LONG]}}, 400),
    "many values": ({"json": {"regions": ["x"] * 1000}}, 400),
    "deep": ({"content": b"[" * 50_000, "headers": {"Content-Type": "application/json"}}, 400),
    "no object": ({"json": [1]}, 400),
    "cut off": ({"content": b'--x\r\nContent-Disposition: form-data; name="upload"\r\n\r\nx', "headers": FORM}, 400),
    "raw": ({"content": encode(), "headers": JPEG}, 400),
    "many bytes": ({"files": {"upload": b"x" * 300_000}}, 413),
    "many in base64": ({"data": {"upload": "A" * 300_000}}, 413),
    "a bomb": ({"files": {"upload": png_bomb()}}, 413),
    "a bomb in base64": ({"data": {"upload": b64encode(png_bomb()).decode()}}, 413),
    "an address": ({"data": {"upload_url": "http://127.0.0.1/"}}, 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_in_their_format(compatible, case):
    request, status = REFUSED[case]
    response = compatible.post(READER, **request)
    assert (response.status_code, response.json()["status_code"]) == (status, status), response.text
    assert response.json()["detail"].endswith(".")
    other = compatible.post(ALPR, **request)
    assert other.status_code >= 400
    assert (other.json()["success"], other.json()["code"]) == (False, other.status_code)
    assert "lpr_errors_total" in compatible.get("/metrics").text


@pytest.mark.parametrize("least", ["x", "-1", "2", "nan"])
def test_a_least_confidence_must_be_one(compatible, least):
    response = compatible.post(ALPR, files={"image": encode()}, data={"min_confidence": least})
    assert (response.status_code, response.json()["success"]) == (422, False)


def test_a_full_queue_is_told_in_their_format(serving):
    busy = serving(compatible=BOTH_NAMES, queue_bytes=1000, max_bytes=1000)
    response = busy.post(READER, files={"upload": b"\xff\xd8" + b"x" * 900})
    assert response.status_code in (400, 413, 429)
    assert "detail" in response.json()
