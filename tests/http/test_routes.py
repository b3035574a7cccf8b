"""The HTTP interface on a real uvicorn: the answer's shape, and every refusal."""

import json
import re
import threading
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service import errors
from service.app import create_app
from service.artifact import Format, Grammar, Kind, ReadManifest, write
from service.http import answers, error_responses, openapi
from service.pipeline.items import Seen
from service.reading.plates import MIN_CONFIDENCE
from service.reading.text import Candidate, Reading
from service.settings import Settings
from service.wire import Problem, Recognition
from tests.support.answers import JPEG, problem
from tests.support.artifacts import PUBLISHED, TINY_TEXT, describe, save_tiny_model
from tests.support.images import encode, picture, png_bomb
from tests.support.samples import FOLDER
from tests.support.servers import Serving, running

FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def strict(serving: Serving) -> httpx.Client:
    """A client of a server with tight limits."""
    return serving(max_bytes=20_000, max_pixels=10_000, max_images=2, queue=2)


def part(data: bytes, name: str = "image", filename: str | None = "p.jpg", kind: str | None = "image/jpeg") -> tuple:
    return (name, (filename, data, kind) if kind else (filename, data))


def test_the_answer_is_what_its_schema_says(client):
    """It is written without the schema, which would take longer to check it than to write it."""
    answer = client.post("/recognize", files=[part(encode()), part(b"x")]).json()
    assert Recognition.model_validate(answer, strict=False).model_dump(mode="json") == answer
    assert answer["results"][0]["plates"]
    assert answer["results"][1]["error"]


def test_the_answer_has_the_documented_shape(client):
    response = client.post("/recognize", files=[part(encode(".png"), filename="plate.png", kind="image/png")])
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["backend", "model", "results", "timing_ms"]
    assert answer["backend"] == "tiny"
    assert (answer["model"]["variant"], answer["model"]["version"]) == ("tiny", "1")
    assert answer["model"]["engine"].startswith("onnxruntime ")
    assert list(answer["timing_ms"]) == [
        *("decode", "find", "rectify", "preprocess", "queue", "inference", "postprocess", "total")
    ]
    (result,) = answer["results"]
    assert list(result) == ["filename", "plates", "truncated", "note", "error"]
    assert (result["note"], result["error"]) == (None, None)
    (plate,) = result["plates"]
    keys = ["text", "confidence", "valid_format", "formats", "region", "characters", "candidates", "box"]
    keys += ["found", "rows", "colour", "cut"]
    assert (result["filename"], list(plate)) == ("plate.png", keys)
    assert (plate["text"], plate["valid_format"], plate["formats"]) == (TINY_TEXT, True, ["cn-standard"])
    assert [character["char"] for character in plate["characters"]] == list(TINY_TEXT)
    assert plate["candidates"][0] == {"text": TINY_TEXT, "confidence": plate["confidence"]}
    assert len(plate["candidates"]) == 3
    assert plate["box"] == [[0, 0], [94, 0], [94, 24], [0, 24]]


@pytest.mark.parametrize(("extension", "kind"), [(".jpg", "jpeg"), (".png", "png"), (".bmp", "bmp"), (".webp", "webp")])
def test_a_raw_body_is_read(client, extension, kind):
    response = client.post("/recognize", content=encode(extension), headers={"Content-Type": f"image/{kind}"})
    (result,) = response.json()["results"]
    assert (result["filename"], result["plates"][0]["text"]) == (None, TINY_TEXT)


@pytest.mark.parametrize("kind", ["image/JPEG", "image/jpeg; charset=binary"])
def test_the_content_type_is_read_as_http_means_it(client, kind):
    assert client.post("/recognize", content=encode(), headers={"Content-Type": kind}).status_code == 200


def test_several_images_give_several_results_in_order(client):
    names = ["a.jpg", "b.bmp", "京.png"]
    images = [encode(), encode(".bmp", picture(50, 20)), encode(".png", picture(60, 20))]
    files = [part(data, filename=name, kind=None) for name, data in zip(names, images, strict=True)]
    results = client.post("/recognize", files=files).json()["results"]
    assert [result["filename"] for result in results] == names
    assert [result["plates"][0]["box"][2] for result in results] == [[94, 24], [50, 20], [60, 20]]


def test_a_part_may_be_of_an_unnamed_type_and_without_a_filename(client):
    body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + encode() + b"\r\n--x--\r\n"
    assert client.post("/recognize", content=body, headers=FORM).json()["results"][0]["filename"] is None
    octets = [part(encode(), kind="application/octet-stream")]
    assert client.post("/recognize", files=octets).status_code == 200


@pytest.mark.parametrize("top_k", [1, 10])
def test_top_k_says_how_many_candidates(client, top_k):
    answer = client.post("/recognize", params={"top_k": top_k}, content=encode(), headers=JPEG).json()
    assert len(answer["results"][0]["plates"][0]["candidates"]) == top_k


@pytest.mark.parametrize("top_k", ["0", "11", "-1", "x", "", "1.5"])
def test_top_k_out_of_range(client, top_k):
    response = client.post("/recognize", params={"top_k": top_k}, content=encode(), headers=JPEG)
    assert "top_k" in problem(response, 422, errors.BadParameter)


def test_no_image(client):
    problem(client.post("/recognize"), 422, errors.NoImage)
    problem(client.post("/recognize", content=b"--x--\r\n", headers=FORM), 422, errors.NoImage)


@pytest.mark.parametrize("name", ["file", "images", ""])
def test_an_unknown_part_of_a_form(client, name):
    response = client.post("/recognize", files=[part(encode()), part(encode(), name=name)])
    assert "send only image" in problem(response, 422, errors.BadParameter)


@pytest.mark.parametrize("query", ["topk=3", "formats=cn-blue", "top_k=1&x", "top_k=1&top_k=1", "x" * 5000])
def test_an_unknown_or_repeated_parameter(client, query):
    response = client.post(f"/recognize?{query}", content=encode(), headers=JPEG)
    sentence = problem(response, 422, errors.BadParameter)
    assert "more than once" in sentence or "send only top_k, format, region, min_confidence, find, variant" in sentence
    assert len(sentence) < 400
    assert ("The nearest is top_k." in sentence) == (query == "topk=3")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/variants"), ("GET", "/model"), ("POST", "/variants/tiny/activate"), ("POST", "/v2/models/tiny/infer")],
)
def test_a_parameter_where_none_is_taken(client, method, path):
    response = client.request(method, f"{path}?top_k=1", json={})
    assert response.status_code == 422
    assert "takes none" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/v2/models/" + "x" * 5000, "/recognize?variant=" + "x" * 5000])
def test_what_a_client_sent_is_echoed_only_in_part(client, path):
    for answer in (client.get(path), client.post(path, content=encode())):
        assert answer.status_code in (404, 405, 422)
        assert len(answer.json()["detail"]) < 500


def test_a_long_filename_comes_back_in_part(client):
    image = {"data": base64_of(encode()), "filename": "x" * 999}
    for sent in ({"json": {"images": [image]}}, {"files": [part(encode(), filename=image["filename"])]}):
        assert client.post("/recognize", **sent).json()["results"][0]["filename"] == "x" * 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v2", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("POST", "/recognize", 422),
        ("POST", "/v2/models/tiny/infer", 400),
    ],
)
def test_no_browser_takes_an_answer_for_a_page(client, method, path, status):
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (status, "nosniff")


def test_empty_image(client):
    problem(client.post("/recognize", content=b"", headers=JPEG), 400, errors.EmptyImage)
    problem(client.post("/recognize", files=[part(b"")]), 400, errors.EmptyImage)


@pytest.mark.parametrize("data", [b"hello", b"GIF89a" + bytes(99), encode(".jpg")[:100], encode(".png")[:200]])
def test_undecodable_image(client, data):
    problem(client.post("/recognize", content=data, headers=JPEG), 400, errors.UndecodableImage)


def test_an_image_that_cannot_be_read_does_not_lose_the_others(strict):
    files = [part(b"x", filename="a.jpg"), part(encode(".bmp"), filename="b.bmp", kind="image/bmp")]
    answer = strict.post("/recognize", files=files)
    assert answer.status_code == 200
    first, second = answer.json()["results"]
    assert (first["filename"], first["plates"], first["error"]["status"]) == ("a.jpg", [], 400)
    assert first["error"]["type"] == "urn:lpr:undecodable_image"
    assert first["error"]["detail"].endswith(".")
    assert (second["filename"], second["plates"][0]["text"], second["error"]) == ("b.bmp", TINY_TEXT, None)
    large = encode(".jpg", picture(200, 100))
    first, second = strict.post("/recognize", files=[part(large), part(b"hello", kind="text/plain")]).json()["results"]
    assert (first["error"]["status"], second["error"]["status"]) == (413, 415)


def base64_of(data: bytes) -> str:
    return b64encode(data).decode()


def test_json_with_images_in_base64_is_read(client):
    lines = encodebytes(encode(".png", picture(60, 20))).decode()  # with line breaks
    url = f"data:image/bmp;base64,{base64_of(encode('.bmp', picture(50, 20)))}"
    images = [{"data": base64_of(encode()), "filename": "京.jpg"}, {"data": url}, {"data": lines}]
    results = client.post("/recognize", json={"images": images}).json()["results"]
    assert [result["filename"] for result in results] == ["京.jpg", None, None]
    assert [result["plates"][0]["box"][2] for result in results] == [[94, 24], [50, 20], [60, 20]]
    assert results[0]["plates"][0]["text"] == TINY_TEXT


def test_base64_is_read_in_its_url_safe_alphabet_and_without_padding(client):
    data = encode(".bmp", picture(60, 20))
    assert {b"+", b"/"} <= {bytes([byte]) for byte in b64encode(data)}
    for text in (urlsafe_b64encode(data).decode(), urlsafe_b64encode(data + b"0").decode().rstrip("=")):
        (result,) = client.post("/recognize", json={"images": [{"data": text}]}).json()["results"]
        assert result["plates"][0]["box"][2] == [60, 20]


@pytest.mark.parametrize("data", ["*", "abc", "a", "AA==AA==", "=", "京", "data:,", base64_of(b"hello")])
def test_json_whose_image_is_none(client, data):
    error = errors.EmptyImage if data == "data:," else errors.UndecodableImage
    problem(client.post("/recognize", json={"images": [{"data": data}]}), 400, error)
    images = [{"data": data}, {"data": base64_of(encode())}]
    first, second = client.post("/recognize", json={"images": images}).json()["results"]
    assert first["error"]["type"] == f"urn:lpr:{error.slug}"
    assert second["plates"][0]["text"] == TINY_TEXT


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"images": [1]}', b'{"images": [{"data": ""}], "x": 1}', b'{"images": null}']
)
def test_malformed_json(client, body):
    response = client.post("/recognize", content=body, headers={"Content-Type": "application/json"})
    assert '"images"' in problem(response, 400, errors.MalformedBody)


def test_json_with_no_image_or_too_many(strict):
    problem(strict.post("/recognize", json={"images": []}), 422, errors.NoImage)
    image = {"data": base64_of(encode())}
    problem(strict.post("/recognize", json={"images": [image] * 3}), 422, errors.TooManyImages)
    problem(strict.post("/recognize", json={"images": [{"data": "a" * 20_000}]}), 413, errors.BodyTooLarge)


def plates(client: httpx.Client, **parameters: object) -> list[dict]:
    response = client.post("/recognize", params=parameters, content=encode(), headers=JPEG)
    assert response.status_code == 200, response.text
    return list(response.json()["results"][0]["plates"])


def test_a_plate_is_read_as_one_of_the_formats_asked_for(client):
    (free,), (held,) = plates(client, top_k=1), plates(client, top_k=1, format="cn-standard")
    assert held == {**free, "confidence": pytest.approx(free["confidence"]), "candidates": held["candidates"]}
    assert held["formats"] == ["cn-standard"]
    assert held["candidates"] == [{"text": TINY_TEXT, "confidence": held["confidence"]}]
    response = client.post("/recognize", params={"format": "cn-standard,cn-pink"}, content=encode(), headers=JPEG)
    sentence = problem(response, 422, errors.BadParameter)
    assert "'cn-pink'" in sentence
    assert "cn-standard" in sentence


def test_a_plate_is_read_as_one_of_the_regions_asked_for(client):
    (free,), (held,) = plates(client, top_k=1), plates(client, top_k=1, region="CN")
    assert (held["text"], held["formats"]) == (free["text"], ["cn-standard"])
    assert plates(client, top_k=1, region="any") == [free]
    response = client.post("/recognize", params={"region": "cn,xx"}, content=encode(), headers=JPEG)
    sentence = problem(response, 422, errors.BadParameter)
    assert "'xx'" in sentence
    assert "choose among cn" in sentence


def test_the_server_reads_its_usual_regions_where_a_request_names_none(tmp_path):
    grammar = Grammar(
        formats=(
            Format(
                name="de",
                templates=(("ABCDE", *["0123456789"] * 3),),
                kinds=(Kind(name="de", region="de", rows=1, colours=("white",), share=1),),
            ),
            *describe().grammar.formats,
        )
    )
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_tiny_model(folder)
    write(folder, describe().model_copy(update={"grammar": grammar}))
    usual = Settings(
        variant="tiny",
        finder=None,
        artifacts=tmp_path,
        threads=1,
        regions=("de",),
        compatible=("plate-recognizer", "codeproject"),
    )
    with running(usual) as url, httpx.Client(base_url=url) as there:
        (held,) = plates(there, min_confidence=0, top_k=1)
        (free,) = plates(there, region="any", top_k=1)
        (asked,) = plates(there, format="cn-standard", top_k=1)
        foreign = there.post("/v1/plate-reader/", files={"upload": encode()}).json()["results"]
        alpr = there.post("/v1/vision/alpr", files={"upload": encode()}).json()["predictions"]
    assert (len(held["text"]), held["formats"]) == (4, ["de"])
    assert held["region"] == {"code": "de", "probability": 1.0}
    assert free["text"] == asked["text"] == TINY_TEXT
    assert free["region"] == {"code": "cn", "probability": 1.0}  # by the format's name: it has no kinds
    assert foreign == alpr == []  # held to the region, its text is not sure enough


def test_regions_that_the_model_does_not_read_keep_the_server_from_starting(tiny):
    with pytest.raises(errors.ArtifactError, match=r"LPR_REGIONS.*choose among cn"):
        create_app(Settings(variant="tiny", finder=None, artifacts=tiny.folder.parent, threads=1, regions=("gb",)))


def test_a_variant_that_does_not_read_the_regions_does_not_become_the_active_one(tmp_path):
    """Else each request that names no region would fail, and with a switch file the next start too."""
    german = tiny_of(tmp_path, "german", "de")
    tiny_of(tmp_path, "british", "gb")
    key = "0123456789abcdef0123"
    settings = Settings(
        variant=german, finder=None, artifacts=tmp_path, threads=1, regions=("de",), admin_keys=(key,),
        switch_file=tmp_path / "switch",
    )  # fmt: skip
    with running(settings) as url, httpx.Client(base_url=url, headers={"X-API-Key": key}) as there:
        refused = there.post("/variants/british/activate")
        chosen = there.post("/recognize", params={"variant": "british"}, files={"image": encode()})
        free = there.post("/recognize", params={"variant": "british", "region": "any"}, files={"image": encode()})
        usual = there.post("/recognize", files={"image": encode()})
    assert "LPR_REGIONS" in problem(refused, 409, errors.VariantUnusable)
    assert not (tmp_path / "switch").exists()
    assert "region=any" in problem(chosen, 422, errors.BadParameter)
    assert (free.status_code, usual.status_code) == (200, 200)


def tiny_of(root: Path, name: str, region: str) -> str:
    """A tiny variant whose formats are of one country."""
    (root / name).mkdir()
    save_tiny_model(root / name)
    kind = Kind(name=region, region=region, rows=1, colours=("white",), share=1)
    grammar = Grammar(formats=(Format(name=region, templates=(("A",) * 4,), kinds=(kind,)),))
    write(root / name, describe(name).model_copy(update={"grammar": grammar}))
    return name


def test_the_formats_hold_the_decoding_itself():
    """The blue sample has no green plate's eight characters, so that only decoding can make them."""
    with (
        running(Settings(variant="quantized", finder=None, artifacts=PUBLISHED, threads=1)) as url,
        httpx.Client(base_url=url) as client,
    ):
        image = (FOLDER / "blue.png").read_bytes()
        asked = {"format": "cn-new-energy"}
        (unsure,) = client.post("/recognize", params=asked, files={"image": image}).json()["results"]
        asked["min_confidence"] = "0"
        (result,) = client.post("/recognize", params=asked, files={"image": image}).json()["results"]
    assert unsure["plates"] == []
    assert "0.1" in unsure["note"]
    (plate,) = result["plates"]
    assert plate["formats"] == ["cn-new-energy"]
    assert [len(candidate["text"]) for candidate in plate["candidates"]] == [8, 8, 8]
    assert plate["confidence"] < 0.5


def test_what_is_read_with_less_than_the_confidence_asked_for_is_left_out_with_a_note(client):
    (plate,) = plates(client)
    assert plates(client, min_confidence=plate["confidence"]) == [plate]
    response = client.post("/recognize", params={"min_confidence": 1}, content=encode(), headers=JPEG)
    (result,) = response.json()["results"]
    assert (result["plates"], result["error"]) == ([], None)
    assert result["note"] == "No reading was as sure as 1: is this a crop of one plate?"


def test_an_image_without_characters_has_a_note_whatever_the_least_confidence():
    nothing = Seen(9, 9, np.zeros((1, 2), np.float32), Reading("", 0.9, (), (), (Candidate("", 0.9),)))
    result = answers.compose("a.jpg", [nothing], min_confidence=0)
    assert (result["plates"], result["error"]) == ([], None)
    assert result["note"] == "No text was found: is this a crop of one plate?"


def test_an_image_has_as_many_plates_as_were_read_on_it():
    one = Seen(9, 9, np.zeros((1, 2), np.float32), Reading("A", 0.9, (), (), (Candidate("A", 0.9),)))
    doubtful = Seen(9, 9, np.zeros((1, 2), np.float32), Reading("B", 0.1, (), (), (Candidate("B", 0.1),)))
    cases = [((), 0), ((one,), 1), ((one, doubtful), 1), ((one, one), 2), ((doubtful,), 0)]
    for outcomes, plates in cases:
        result = answers.compose("a.jpg", outcomes, min_confidence=0.5)
        assert len(result["plates"]) == plates
        assert (result["note"] is None) == (plates > 0)
        assert result["error"] is None


def flat(value: int) -> NDArray[np.generic]:
    return np.full((240, 940, 3), value, np.uint8)


def noise() -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(0, 256, (48, 188, 3), np.uint8)


def test_what_shows_no_plate_has_none_and_a_plate_has_one():
    """The default variant, which sees characters in anything; of crops."""
    with (
        running(Settings(artifacts=PUBLISHED, finder=None, threads=1)) as url,
        httpx.Client(base_url=url) as client,
    ):
        files = [encode(".png", image) for image in (flat(255), flat(128), flat(0), noise(), picture(1200, 900))]
        parts = [("image", file) for file in (*files, (FOLDER / "yellow.png").read_bytes())]
        *empty, yellow = client.post("/recognize", files=parts).json()["results"]
        before = client.post("/recognize", params={"min_confidence": 0}, files=parts).json()["results"]
    for result in empty:
        assert (result["plates"], result["error"]) == ([], None)
        assert result["note"] in (
            "No text was found: is this a crop of one plate?",
            f"No reading was as sure as {MIN_CONFIDENCE:g}: is this a crop of one plate?",
        )
    assert yellow["plates"][0]["formats"] == ["cn-standard"]
    for result, at_all in zip((*empty, yellow), before, strict=True):
        text = not (result["note"] or "").startswith("No text")
        assert (len(at_all["plates"]), at_all["note"]) == ((1, None) if text else (0, result["note"]))


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "inf", "x"])
def test_min_confidence_out_of_range(client, value):
    response = client.post("/recognize", params={"min_confidence": value}, content=encode(), headers=JPEG)
    assert "min_confidence" in problem(response, 422, errors.BadParameter)


ODD_TYPES = [
    "image/jpg",
    "image/pjpeg",
    "image/gif",
    "application/octet-stream",
    "binary/octet-stream",
    "text/plain",
    ";",
]


@pytest.mark.parametrize("kind", [*ODD_TYPES, "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
def test_the_bytes_decide_what_is_an_image(client, kind, extension):
    response = client.post("/recognize", content=encode(extension), headers={"Content-Type": kind})
    assert response.json()["results"][0]["plates"][0]["text"] == TINY_TEXT
    (result,) = client.post("/recognize", files=[part(encode(extension), kind=kind)]).json()["results"]
    assert result["plates"][0]["text"] == TINY_TEXT


def test_an_image_without_a_type_is_read(client):
    assert client.post("/recognize", content=encode()).json()["results"][0]["plates"][0]["text"] == TINY_TEXT


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/" + "x" * 5000, None])
@pytest.mark.parametrize(("data", "looks"), [(b"image=hello", "no image"), (b' {"images": []}', "like JSON")])
def test_what_is_no_image_is_refused_by_its_type(client, kind, data, looks):
    response = client.post("/recognize", content=data, headers={"Content-Type": kind} if kind else {})
    sentence = problem(response, 415, errors.UnsupportedMediaType)
    assert (kind or "no Content-Type")[:100] in sentence
    assert looks in sentence
    assert "multipart/form-data" in sentence
    assert len(sentence) < 600
    response = client.post("/recognize", files=[part(data, kind=(kind or "text/plain")[:500])])
    problem(response, 415, errors.UnsupportedMediaType)


def test_a_compressed_body_is_refused(client):
    response = client.post("/recognize", content=encode(), headers=JPEG | {"Content-Encoding": "gzip"})
    assert "'gzip'" in problem(response, 415, errors.UnsupportedMediaType)


def stream(chunk: bytes, count: int, sent: list[int]) -> Iterator[bytes]:
    for _ in range(count):
        sent.append(len(chunk))
        yield chunk


@pytest.mark.parametrize("headers", [JPEG, FORM])
def test_too_many_bytes_are_refused_while_reading(strict, headers):
    problem(strict.post("/recognize", content=bytes(20_001), headers=headers), 413, errors.BodyTooLarge)
    head = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' if headers is FORM else b""
    sent: list[int] = []
    body = (head + bytes(10_000) if i == 0 else chunk for i, chunk in enumerate(stream(bytes(10_000), 100_000, sent)))
    problem(strict.post("/recognize", content=body, headers=headers), 413, errors.BodyTooLarge)
    assert sum(sent) < 100_000_000  # of the 1 GB that the client had


def test_a_body_of_exactly_the_limit_is_read(strict):
    data = encode()
    response = strict.post("/recognize", content=data + bytes(20_000 - len(data)), headers=JPEG)
    assert response.status_code == 200


def test_too_many_pixels(client, strict):
    response = strict.post("/recognize", content=encode(".png", picture(200, 100)), headers=JPEG)
    assert "200 x 100" in problem(response, 413, errors.TooManyPixels)
    problem(client.post("/recognize", content=png_bomb(), headers=JPEG), 413, errors.TooManyPixels)


def test_too_many_images(strict):
    problem(strict.post("/recognize", files=[part(encode())] * 3), 422, errors.TooManyImages)
    assert strict.post("/recognize", files=[part(encode())] * 2).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"rubbish", FORM),
        (b"--x\r\n", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc', FORM),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data"}),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=" + "y" * 300}),
        (b"--x\r\n" + b"a: b\r\n" * 1000 + b"\r\n--x--\r\n", FORM),
        (b"", FORM),
    ],
)
def test_malformed_multipart(client, body, headers):
    problem(client.post("/recognize", content=body, headers=headers), 400, errors.MalformedBody)


def test_a_server_told_to_wait_computes_together_what_comes_meanwhile(serving, tiny):
    """It would wait for a minute, but not once the largest batch is there."""
    patient, count = serving(batch_wait_ms=60_000, deadline_ms=120_000), tiny.manifest.max_batch
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(patient.post, "/recognize", content=encode(), headers=JPEG) for _ in range(count)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert 'lpr_batch_images_count{backend="tiny"} 1.0' in patient.get("/metrics").text


def test_a_full_queue_is_answered_at_once(serving):
    narrow = serving(max_images=1, queue=1)
    large = encode(".png", picture(3000, 3000))
    gate = threading.Barrier(8)

    def post(_: int) -> httpx.Response:
        gate.wait()
        return narrow.post("/recognize", content=large, headers={"Content-Type": "image/png"})

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(post, range(8)))
    assert {response.status_code for response in responses} == {200, 429}
    for response in (response for response in responses if response.status_code == 429):
        problem(response, 429, errors.Busy)
        assert int(response.headers["retry-after"]) >= 1


def test_unknown_paths_and_methods_are_problems_too(client):
    for response, status in ((client.get("/nothing"), 404), (client.get("/recognize"), 405)):
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        assert response.json()["detail"].endswith(".")


def test_health_readiness_and_model(client, tiny):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    model = client.get("/model").json()
    assert re.fullmatch(
        r"onnxruntime [\d.]+\S*", model.pop("engine")
    )  # of a compiled one, the level of its library too
    assert model.pop("finds") is False  # without a finder
    assert ReadManifest.model_validate_json(json.dumps(model)) == tiny.manifest


def test_metrics_count_what_happened(serving):
    fresh = serving()
    fresh.post("/recognize", files=[part(encode())] * 3)
    fresh.post("/recognize", content=b"x", headers=JPEG)
    text = fresh.get("/metrics").text
    for line in (
        'lpr_plates_total{backend="tiny"} 3.0',
        'lpr_confidence_count{backend="tiny"} 3.0',
        'lpr_request_seconds_count{backend="tiny"} 2.0',
        'lpr_errors_total{backend="tiny",cause="undecodable_image"} 1.0',
        'lpr_errors_total{backend="tiny",cause="busy"} 0.0',
        'lpr_requests_in_flight{backend="tiny"} 0.0',
        'lpr_stage_seconds_count{backend="tiny",stage="inference"} 1.0',
        'lpr_stage_seconds_bucket{backend="tiny",le="0.00025",stage="queue"}',
        'lpr_batch_images_sum{backend="tiny"} 3.0',
    ):
        assert line in text
    assert 'lpr_model_info{backend="tiny",engine="onnxruntime ' in text


def test_the_documentation_shows_bodies_answers_and_refusals(client):
    assert client.get("/docs").status_code == 200
    recognize = client.get("/openapi.json").json()["paths"]["/recognize"]["post"]
    bodies = {"multipart/form-data", "application/json", "application/octet-stream"}
    bodies |= {"image/jpeg", "image/png", "image/bmp", "image/webp"}
    assert set(recognize["requestBody"]["content"]) == bodies
    assert set(recognize["responses"]) == {"200", *map(str, openapi.REFUSALS)}
    assert "$ref" not in str([recognize["requestBody"], recognize["responses"]["400"]])  # it would lead nowhere
    for status in ("400", "422"):
        assert list(recognize["responses"][status]["content"]) == ["application/problem+json"]


def test_each_status_shows_an_error_of_its_own(client):
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status != "200":
                    example = Problem.model_validate(answer["content"]["application/problem+json"]["example"])
                    assert example.status == int(status), (path, status)
                    assert example.detail.endswith(".")


def leaves(error: type[errors.LprError]) -> set[type[errors.LprError]]:
    """What has nothing below it in service.errors; the command line has an error of its own."""
    below = [found for found in error.__subclasses__() if found.__module__ == errors.__name__]
    return set().union(*map(leaves, below)) if below else {error}


def test_every_error_of_a_request_has_a_status():
    reachable = leaves(errors.InputError) | leaves(errors.Unavailable)
    assert set(error_responses.STATUS) == reachable
    assert all(400 <= error_responses.STATUS[error] < 500 for error in leaves(errors.InputError))
    assert leaves(errors.LprError) - reachable == {errors.UnknownVariant} | leaves(errors.ClientError)


def test_the_error_tree_is_drawn_in_full():
    tree = errors.__doc__ or ""
    assert [error.__name__ for error in leaves(errors.LprError) if error.__name__ not in tree] == []


def test_an_image_that_ends_early_says_so(client):
    jpeg = encode(".jpg", picture(300, 100))
    files = [("image", ("a.jpg", data, "image/jpeg")) for data in (jpeg, jpeg[:-40], jpeg[:100])]
    answer = Recognition.model_validate(client.post("/recognize", files=files).json())
    assert [result.truncated for result in answer.results] == [False, True, False]
    assert [result.error is None for result in answer.results] == [True, True, False]


def test_formats_that_are_not_read_are_refused_by_name(client):
    for data, told in ((b"%PDF-1.7", "PDF document"), (b"<svg/>", "SVG drawing")):
        for kind in ("application/octet-stream", "application/x-other"):
            answer = client.post("/recognize", content=data, headers={"Content-Type": kind})
            assert (answer.status_code, told in answer.json()["detail"]) == (415, True)


def test_a_parameter_in_the_form_is_sent_to_the_address(client):
    answer = client.post("/recognize", files=[("image", encode()), ("top_k", (None, "2"))])
    assert "?top_k=VALUE" in problem(answer, 422, errors.BadParameter)
