"""The Open Inference Protocol as Triton's own client speaks it, and what that client would never send."""

import base64
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from service.artifact import Artifact, read_probe
from service.finding.refine import Refined
from service.pipeline.items import Empty, Seen, Timing
from service.pipeline.recognizer import Recognizer
from service.reading import decode, geometry
from service.reading.text import Candidate, Reading
from service.settings import Settings
from tests.support.artifacts import PUBLISHED, TINY_TEXT
from tests.support.images import encode, picture
from tests.support.samples import FOLDER, SAMPLES
from tests.support.servers import Serving, running

SIZE = (24, 94)  # height and width that the network takes
VERSION = "1"  # of the tiny artifact


def connect(url: str) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(url.removeprefix("http://").rstrip("/"))


@pytest.fixture(scope="module")
def protocol(client: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of the tiny artifact's server."""
    found = connect(str(client.base_url))
    yield found
    found.close()


def image(*files: bytes, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, np.object_), binary_data=binary)
    return tensor


def crops(batch: NDArray[np.uint8], binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("input", list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(batch, binary_data=binary)
    return tensor


def texts(result: triton.InferResult, name: str = "text") -> list[str]:
    return [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy(name)]


def test_health_and_metadata(protocol):
    assert protocol.is_server_live()
    assert protocol.is_server_ready()
    assert protocol.is_model_ready("tiny")
    assert protocol.is_model_ready("tiny", VERSION)
    assert not protocol.is_model_ready("none")
    assert not protocol.is_model_ready("tiny", "2")
    server = protocol.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("lpr", ["binary_tensor_data"])
    model = protocol.get_model_metadata("tiny")
    assert (model["name"], model["versions"], model["platform"]) == ("tiny", [VERSION], "onnxruntime")
    taken, given = (
        {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in model[kind]}
        for kind in ("inputs", "outputs")
    )
    assert taken == {"image": ("BYTES", [-1]), "input": ("UINT8", [-1, 24, 94, 3])}
    assert given == {
        "text": ("BYTES", [-1]),
        "confidence": ("FP32", [-1]),
        "format": ("BYTES", [-1]),
        "logits": ("FP32", [-1, 20, 18]),
        "region": ("BYTES", [-1]),
        "image": ("INT32", [-1]),
        "box": ("FP32", [-1, 8]),
    }


@pytest.mark.parametrize("binary", [True, False])
def test_the_probe_comes_out_as_published(protocol, tiny: Artifact, binary):
    ((images, logits),) = read_probe(tiny)
    wishes = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "text")]
    result = protocol.infer("tiny", [crops(images, binary)], VERSION, wishes, request_id="x")
    np.testing.assert_allclose(result.as_numpy("logits"), logits, atol=tiny.manifest.probe.tolerance)
    assert texts(result) == [TINY_TEXT] * len(images)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("tiny", VERSION, "x")
    assert [output["name"] for output in response["outputs"]] == ["logits", "text"]


def test_encoded_images_are_read_as_by_recognize(client, protocol):
    files = [encode(), encode(".png", picture(200, 60))]
    answers = client.post("/recognize", files=[("image", file) for file in files]).json()["results"]
    result = protocol.infer("tiny", [image(*files)])  # all outputs, in bytes
    assert texts(result) == [answer["plates"][0]["text"] for answer in answers]
    assert texts(result, "format") == ["cn-standard"] * 2
    confidences = [answer["plates"][0]["confidence"] for answer in answers]
    np.testing.assert_allclose(result.as_numpy("confidence"), confidences, rtol=1e-6)
    assert result.as_numpy("logits").shape == (2, 20, 18)
    coded = [base64.b64encode(file) for file in files]
    assert texts(result, "region") == ["cn"] * 2
    again = protocol.infer("tiny", [image(*coded, binary=False)], parameters={"format": "cn-standard", "region": "cn"})
    assert texts(again) == texts(result)
    unsure = protocol.infer("tiny", [image(*files)], parameters={"min_confidence": 1})
    assert texts(unsure) == texts(unsure, "format") == texts(unsure, "region") == [""] * 2
    np.testing.assert_array_equal(unsure.as_numpy("confidence"), result.as_numpy("confidence"))


def test_crops_have_no_place_unless_asked_for(protocol):
    """What a client of older servers expects, it gets."""
    given = protocol.infer("tiny", [image(encode())]).get_response()["outputs"]
    assert [output["name"] for output in given] == ["text", "confidence", "format", "logits", "region"]
    named = [triton.InferRequestedOutput(name) for name in ("image", "box")]
    result = protocol.infer("tiny", [image(encode(), encode(".png", picture(200, 60)))], outputs=named)
    assert result.as_numpy("image").tolist() == [0, 1]
    assert result.as_numpy("box")[1].tolist() == [0, 0, 200, 0, 200, 60, 0, 60]


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether recognizers are asked to find; one of three photographs then has two plates, another one none."""
    asked: list[bool] = []
    corners = np.array([[1, 2], [101, 2], [101, 27.25], [1, 27]], np.float32)

    def seen(text: str, probability: float) -> Seen:
        reading = Reading(text, 0.5, ("cn-standard",), (), (Candidate(text, 0.5),))
        plate = Refined(corners, probability, 1, "blue", False)
        return Seen(200, 100, np.ones((20, 18), np.float32), reading, plate=plate)

    async def recognize(*_: object, find: bool, **__: object) -> tuple:
        asked.append(find)
        plates = (seen("京A12345", 0.97), seen("京A12346", 0.1), seen("", 0.97))  # the second one is too unsure
        return [(Empty(),), plates, (seen("京A12348", 0.97),)], Timing(*[0.0] * 8)

    monkeypatch.setattr(Recognizer, "finding", lambda _, wanted: bool(wanted))
    monkeypatch.setattr(Recognizer, "recognize", recognize)
    return asked


@pytest.mark.parametrize("binary", [True, False])
def test_plates_found_in_photographs_are_a_row_each(protocol, finding, binary):
    files = [image(*[encode()] * 3)]
    wishes = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("text", "image", "box", "logits")]
    result = protocol.infer("tiny", files, outputs=wishes, parameters={"find": True})
    assert finding == [True]
    assert texts(result) == ["京A12345", "", "京A12348"]
    assert (result.as_numpy("image").tolist(), result.as_numpy("image").dtype) == ([1, 1, 2], np.int32)
    np.testing.assert_allclose(result.as_numpy("box"), [[1, 2, 101, 2, 101, 27.2, 1, 27]] * 3)  # as in /recognize
    assert result.as_numpy("logits").shape == (3, 20, 18)
    everything = protocol.infer("tiny", files, parameters={"find": True})
    assert everything.as_numpy("confidence").tolist() == [0.5, 0, 0.5]
    assert [output["name"] for output in everything.get_response()["outputs"]] == [
        "text",
        "confidence",
        "format",
        "logits",
        "region",
        "image",
        "box",
    ]
    nothing = protocol.infer("tiny", files, parameters={"find": True, "min_confidence": 0.9})
    assert (texts(nothing), nothing.as_numpy("box").shape) == ([], (0, 8))
    assert nothing.as_numpy("logits").shape == (0, 20, 18)


def test_finding_needs_photographs_and_a_finder(protocol):
    for tensor, sentence in (
        (image(encode()), "LPR_FINDER"),
        (crops(np.zeros((1, *SIZE, 3), np.uint8)), "holds crops"),
    ):
        with pytest.raises(InferenceServerException, match=sentence):
            protocol.infer("tiny", [tensor], parameters={"find": True})


def test_any_installed_variant_is_a_model():
    with running(Settings(variant="tvm", artifacts=PUBLISHED, threads=1)) as url:
        protocol = connect(url)
        files = [(FOLDER / file).read_bytes() for file, _ in SAMPLES]
        for name in ("tvm", "quantized"):
            assert protocol.is_model_ready(name)
            assert texts(protocol.infer(name, [image(*files)])) == [text for _, text in SAMPLES]
        pixels = np.stack([geometry.prepare(decode.decode_image(file, 1_000_000), SIZE) for file in files])
        assert texts(protocol.infer("quantized", [crops(pixels)])) == [text for _, text in SAMPLES]
        protocol.close()


def test_what_cannot_be_read_is_told_in_the_words_of_the_protocol(protocol, serving: Serving):
    for model, inputs, version, sentence in (
        ("tiny", [image(b"x")], "", "Image 1 of 1: The image is not a readable JPEG"),
        ("tiny", [image(encode(), b"")], "", "Image 2 of 2: The image has no bytes"),
        ("tiny", [image(b"*", binary=False)], "", "not base64"),
        ("tiny", [crops(np.zeros((1, 24, 93, 3), np.uint8))], "", "of the shape [1, 24, 94, 3]"),
        ("tiny", [crops(np.zeros((0, 24, 94, 3), np.uint8))], "", "no rows"),
        ("tiny", [image(encode()), crops(np.zeros((1, 24, 94, 3), np.uint8))], "", "at most 1 item"),
        ("tiny", [image(encode())], "2", "no version '2' of tiny"),
        ("none", [image(encode())], "", "no variant 'none'"),
    ):
        with pytest.raises(InferenceServerException) as refusal:
            protocol.infer(model, inputs, version)
        assert sentence in refusal.value.message()
    with pytest.raises(InferenceServerException, match="no output 'x'"):
        protocol.infer("tiny", [image(encode())], outputs=[triton.InferRequestedOutput("x")])
    with pytest.raises(InferenceServerException, match="'gzip' is not accepted"):
        protocol.infer("tiny", [image(encode())], request_compression_algorithm="gzip")
    strict = serving(max_images=1, choice=False, api_keys="a key of 20 letters.")
    keyed = connect(str(strict.base_url))
    with pytest.raises(InferenceServerException, match="API key"):
        keyed.infer("tiny", [image(encode())])
    key = {"Authorization": "Bearer a key of 20 letters."}
    assert texts(keyed.infer("tiny", [image(encode())], headers=key)) == [TINY_TEXT]
    with pytest.raises(InferenceServerException, match="more than 1 images"):
        keyed.infer("tiny", [image(encode(), encode())], headers=key)
    with pytest.raises(InferenceServerException, match="reads with tiny only"):
        keyed.infer("other", [image(encode())], headers=key)
    keyed.close()


PIXELS = [0] * (24 * 94 * 3)
INPUT = {"name": "input", "shape": [1, 24, 94, 3], "datatype": "UINT8"}
IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES"}


@pytest.mark.parametrize(
    "tensor",
    [
        INPUT,
        INPUT | {"data": PIXELS[1:]},
        INPUT | {"data": [256, *PIXELS[1:]]},
        INPUT | {"data": [-1, *PIXELS[1:]]},
        INPUT | {"data": [0.5, *PIXELS[1:]]},
        INPUT | {"data": ["0", *PIXELS[1:]]},
        INPUT | {"data": [True] * len(PIXELS)},
        INPUT | {"data": [[0], [0, 0]]},
        INPUT | {"data": []},
        INPUT | {"data": PIXELS, "datatype": "FP32"},
        INPUT | {"data": PIXELS, "shape": [24, 94, 3]},
        INPUT | {"data": PIXELS, "parameters": {"binary_data_size": 0}},
        INPUT | {"parameters": {"binary_data_size": 6768}},
        INPUT | {"parameters": {"binary_data_size": "x"}},
        IMAGE | {"data": [1]},
        IMAGE | {"data": [["a", "b"]]},
        IMAGE | {"data": ["/9j/", "/9j/"]},
        IMAGE | {"data": "x"},
        IMAGE | {"name": "x", "data": ["/9j/"]},
        IMAGE | {"shape": [-1], "data": ["/9j/"]},
    ],
)
def test_a_malformed_tensor_is_refused_with_a_sentence(client, tensor):
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["error"] == body["detail"]
    assert body["error"].endswith(".")


@pytest.mark.parametrize("length", ["x", "-1", "9" * 30, "3", "²"])
def test_a_wrong_length_of_the_header_is_refused(client, length):
    headers = {"Inference-Header-Content-Length": length.encode()}
    assert client.post("/v2/models/tiny/infer", content=b'{"inputs": []}', headers=headers).status_code == 400


@pytest.mark.parametrize("raw", [b"\x05\x00\x00\x00abcd", b"\xff\xff\xff\xff", b"\x01", b""])
def test_a_binary_tensor_that_ends_early_is_refused(client, raw):
    head = b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": %d}}]}'
    head %= len(raw)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert client.post("/v2/models/tiny/infer", content=head + raw, headers=headers).status_code == 400


@pytest.mark.parametrize("count", [0, 3, 1_000_000])
def test_a_binary_tensor_of_another_number_of_elements_is_refused(client, count):
    raw = bytes(4 * count)
    head = b'{"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": %d}}]}'
    head %= len(raw)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = client.post("/v2/models/tiny/infer", content=head + raw, headers=headers)
    assert answer.status_code == 400
    assert "after its 2 elements" in answer.json()["error"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outputs": [{"name": "logits"}] * 2}, "more than once"),
        ({"outputs": [{"name": "logits"}] * 9}, "at most 7 items"),
        ({"outputs": [{"name": "x" * 200}]}, "no output 'xxx"),
        ({"outputs": [{"name": "x" * 201}]}, "at most 200 characters"),
        ({"id": "x" * 201}, "at most 200 characters"),
        ({"parameters": {"format": "," * 201}}, "at most 200 characters"),
        ({"parameters": {"region": "," * 201}}, "at most 200 characters"),
        ({"inputs": [IMAGE | {"shape": [1] * 5, "data": [""]}]}, "at most 4 items"),
        ({"inputs": [IMAGE | {"shape": [1, 10**30], "data": [""]}]}, "shape [1] or [1, 1]"),
        ({"inputs": [IMAGE | {"shape": [2], "data": [""]}]}, "1 elements"),
        ({"inputs": [INPUT | {"data": ["x" * 10_000, *[""] * 50]}]}, "whole numbers"),
        ({"inputs": [INPUT | {"data": {}}]}, "valid list"),
        ({"inputs": [INPUT | {"data": [PIXELS[1:], [0]]}]}, "whole numbers"),
        ({"inputs": [INPUT | {"shape": [1, 24, 94, 4], "data": PIXELS}]}, "shape [1, 24, 94, 3]"),
    ],
)
def test_a_request_is_refused_by_its_names_and_shapes_first(client, changes, sentence):
    request = {"inputs": [IMAGE | {"data": [base64.b64encode(encode()).decode()]}]} | changes
    answer = client.post("/v2/models/tiny/infer", json=request)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert len(answer.json()["error"]) < 400


def test_nested_data_is_taken_as_flat(client):
    images = np.zeros((1, 24, 94, 3), np.uint8).tolist()
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [INPUT | {"data": images}]}).json()
    assert {output["name"]: output["shape"] for output in answer["outputs"]}["logits"] == [1, 20, 18]
    nested = IMAGE | {"shape": [1, 1], "data": [[base64.b64encode(encode()).decode()]]}
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [nested]}).json()
    assert answer["outputs"][0]["data"] == [TINY_TEXT]


@pytest.mark.parametrize("version", ["", f"/versions/{VERSION}"])
def test_a_refusal_of_inference_is_what_fastapi_would_say(client, version):
    """The route is a plain one of Starlette, which checks neither the name nor the query."""
    long, asked, unknown = (
        client.post(f"/v2/models/{path}", json={})
        for path in (f"{'x' * 201}{version}/infer", f"tiny{version}/infer?a=1", f"{'x' * 200}{version}/infer")
    )
    assert (long.status_code, asked.status_code, unknown.status_code) == (422, 422, 404)
    assert long.json()["error"] == client.get(f"/v2/models/{'x' * 201}").json()["error"]
    assert "takes none" in asked.json()["error"]
