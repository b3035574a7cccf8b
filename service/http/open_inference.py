"""The Open Inference Protocol, version 2, as KServe, Triton and others speak it: every installed variant is a model.

A model takes one input of two: `image`, an encoded file per plate (BYTES), or `input`, the crops as its network takes
them (UINT8). It gives `text` (empty where its confidence is less than `min_confidence`), `confidence`, `format` (the
names of all formats that the text fits, with commas between) and `logits`. Tensors stand in the JSON, where an encoded
image is base64, or behind it as bytes: the protocol's extension for binary tensor data. The parameters `format` and
`min_confidence` of a request are those of POST /recognize.

https://github.com/kserve/open-inference-protocol, and for the extension Triton's protocol/extension_binary_data.md
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from service.artifact import Manifest
from service.errors import (
    InputError,
    MalformedBody,
    NoImage,
    NoSuchVariant,
    VariantUnusable,
    first_fault,
    quoted,
)
from service.http import access_log, bounded_json
from service.http.routes import (
    NO_QUERY,
    REFUSALS,
    Anybody,
    Name,
    Reader,
    record,
)
from service.http.schema import inlined
from service.http.state import Parts
from service.http.uploads import (
    Limits,
    check_count,
    decode_base64,
    gone,
    parsed,
    read_whole,
)
from service.pipeline.recognizer import Outcome, Seen
from service.reading.containers import Encoded
from service.reading.geometry import Pixels
from service.reading.plates import doubt, restrict
from service.wire import MIN_CONFIDENCE

HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors
EXTENSIONS = ["binary_tensor_data"]
IMAGE, INPUT = "image", "input"
OUTPUTS = ("text", "confidence", "format", "logits")
LENGTH = re.compile("[0-9]{1,9}")  # of JSON, as that header has it
LENGTH_BYTES = 4  # before each element of a binary BYTES tensor, little-endian
SIZES = Field(max_length=4)  # dimensions of a tensor

Text = Annotated[str, Field(max_length=200)]


class InputTensor(BaseModel):
    """A tensor of a request; `data` is flat or nested, or `parameters` has its `binary_data_size`."""

    name: Text
    shape: Annotated[list[Annotated[int, Field(ge=0)]], SIZES]
    datatype: Text
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputWish(BaseModel):
    """An output that the answer is to hold, as bytes if `parameters` says `binary_data`."""

    name: Text
    parameters: dict[str, Any] = {}


class Parameters(BaseModel):
    """Those of a request that mean something here; clients send others too."""

    format: Text | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] = MIN_CONFIDENCE
    binary_data_output: bool = False


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    id: Text | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[OutputWish], Field(max_length=len(OUTPUTS))] = []


@dataclass(frozen=True)
class Output:
    """A tensor of the answer: rows of texts, or an array of float32."""

    datatype: str
    shape: tuple[int, ...]
    values: list[str] | NDArray[np.float32]

    def listed(self) -> list[Any]:
        """The values as JSON has them, flat."""
        values: list[Any] = self.values if isinstance(self.values, list) else self.values.ravel().tolist()
        return values

    def packed(self) -> bytes:
        """The values as the binary extension has them."""
        if not isinstance(self.values, list):
            return self.values.astype("<f4").tobytes()
        texts = [text.encode() for text in self.values]
        return b"".join(len(text).to_bytes(LENGTH_BYTES, "little") + text for text in texts)


async def _manifest(request: Request, name: str, parts: Parts) -> Manifest:
    """The manifest of the model in the address; raises NoSuchVariant or VariantUnusable."""
    manifest = await parts.variants.manifest(name)
    wanted = request.path_params.get("version", manifest.version)
    if wanted != manifest.version:
        raise NoSuchVariant(f"There is no version {quoted(wanted)} of {name}; its version is {manifest.version}.")
    return manifest


UNUSABLE: dict[int | str, dict[str, Any]] = {status: REFUSALS[status] for status in (404, 409, 422)}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@router.get("", summary="What the server is")
async def server() -> dict[str, Any]:
    """Its name, version, and extensions of the protocol."""
    return {"name": "lpr", "version": version("lpr"), "extensions": EXTENSIONS}


@router.get("/health/live", summary="Is the process alive?")
async def live() -> dict[str, Any]:
    """Answers as long as the event loop turns."""
    return {"live": True}


@router.get("/health/ready", responses={503: REFUSALS[503]}, summary="Should requests be sent here?")
async def ready(parts: Anybody) -> dict[str, Any]:
    """As GET /readyz."""
    parts.variants.check_ready()
    return {"ready": True}


@router.get("/models/{name}", responses=UNUSABLE, summary="What a variant takes and gives")
@router.get("/models/{name}/versions/{version}", include_in_schema=False)
async def model(request: Request, name: Name, parts: Anybody) -> dict[str, Any]:
    """Its tensors; a request gives one of the two inputs."""
    manifest = await _manifest(request, name, parts)
    taken = [_tensor(IMAGE, "BYTES", [-1]), _tensor(INPUT, "UINT8", _shape(manifest.input.shape))]
    given = [
        _tensor("text", "BYTES", [-1]),
        _tensor("confidence", "FP32", [-1]),
        _tensor("format", "BYTES", [-1]),
        _tensor("logits", "FP32", _shape(manifest.output.shape)),
    ]
    return {
        "name": manifest.variant,
        "versions": [manifest.version],
        "platform": manifest.backend,
        "inputs": taken,
        "outputs": given,
    }


@router.get("/models/{name}/ready", responses=UNUSABLE | {503: REFUSALS[503]}, summary="Can a variant infer?")
@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request, name: Name, parts: Anybody) -> dict[str, Any]:
    """Whether it is loaded, or can be on its first request."""
    await _manifest(request, name, parts)
    parts.variants.check_ready()
    if problem := await parts.variants.problem(name):
        raise VariantUnusable(problem)
    return {"name": name, "ready": True}


@router.post(
    "/models/{name}/infer",
    dependencies=NO_QUERY,
    responses=REFUSALS,
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": inlined(InferRequest)}}}},
    summary="Read plates with a variant",
)
@router.post("/models/{name}/versions/{version}/infer", dependencies=NO_QUERY, include_in_schema=False)
async def infer(request: Request, name: Name, parts: Reader) -> Response:
    """All plates of a request are read together, and all outputs are given where it names none."""
    access_log.note(request, variant=parts.variants.choose(name))
    manifest = await _manifest(request, name, parts)
    with parts.metrics.request(name):
        body = await read_whole(request, parts.limits)
        length = request.headers.get(HEADER_LENGTH)
        parse = partial(_parse, header_length=length, manifest=manifest, limits=parts.limits)
        asked, images = await parsed(body, parse)
        recognizer = await parts.variants.get(name)
        only = restrict(recognizer.manifest.grammar, asked.parameters.format)
        outcomes, timing = await recognizer.recognize(images, 1, only, gone=partial(gone, request))
        seen = _all_seen(outcomes)
        record(parts.metrics, name, outcomes, timing)
    texts = ["" if doubt(one.reading, asked.parameters.min_confidence) else one.reading.text for one in seen]
    access_log.note(request, variant=name, images=len(seen), plates=sum(map(bool, texts)))
    if parts.log_plates:
        access_log.note(request, texts=texts)
    return _answer(asked, recognizer.manifest, _outputs(seen, texts))


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _shape(shape: Sequence[int | str]) -> list[int]:
    """A manifest's shape as the protocol has it: free dimensions are -1."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _parse(
    body: bytearray, header_length: str | None, manifest: Manifest, limits: Limits
) -> tuple[InferRequest, list[Encoded | Pixels]]:
    """The request and its images; raises MalformedBody, NoImage or TooManyImages."""
    length = len(body) if header_length is None else int(header_length) if LENGTH.fullmatch(header_length) else -1
    if not 0 <= length <= len(body):
        raise MalformedBody(f"{HEADER_LENGTH} is {quoted(header_length or '')}, but the body has {len(body)} bytes.")
    raw = bytes(memoryview(body)[length:])
    del body[length:]
    request = _request(body, limits.max_images, math.prod(_row(manifest)))
    (tensor,) = request.inputs
    size = tensor.parameters.get("binary_data_size")
    if (size or 0) != len(raw) or (size is None) == (tensor.data is None):
        raise MalformedBody(f"The input {tensor.name!r} needs either data or binary_data_size, and just as many bytes.")
    count = tensor.shape[0] if tensor.shape else 0
    if not count:
        raise NoImage(f"The input {tensor.name!r} has no rows: give one for each plate.")
    check_count(count, limits.max_images)
    match tensor.name, tensor.datatype:
        case "image", "BYTES":
            _check_shape(tensor, [count], [count, 1])
            return request, [*(_split(raw, count) if tensor.data is None else _decoded(tensor.data, count))]
        case "input", "UINT8":
            _check_shape(tensor, [count, *_row(manifest)])
            return request, list(_crops(tensor, raw))
    raise MalformedBody(f"Give one input: {IMAGE!r} of BYTES or {INPUT!r} of UINT8, not {tensor.name!r}.")


def _request(body: bytearray, images: int, numbers: int) -> InferRequest:
    """The JSON of a request for so many images at most, each of so many numbers; `body` is empty afterwards."""
    value = bounded_json.load(body, images, images * numbers)
    body.clear()  # the texts in `value` are a copy
    try:
        request = InferRequest.model_validate(value)
    except ValidationError as error:
        raise MalformedBody(f"The JSON is no inference request of protocol v2: {first_fault(error)}.") from error
    names = [wish.name for wish in request.outputs]
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise MalformedBody(f"There is no output {quoted(unknown[0])}; choose among {', '.join(OUTPUTS)}.")
    if len(set(names)) < len(names):
        raise MalformedBody("An output is named more than once: name each once.")
    return request


def _row(manifest: Manifest) -> list[int]:
    """The shape of one crop, as the network takes it."""
    return [int(size) for size in manifest.input.shape[1:]]


def _check_shape(tensor: InputTensor, *accepted: list[int]) -> None:
    if tensor.shape not in accepted:
        raise MalformedBody(f"The input {tensor.name!r} must be of the shape {' or '.join(map(str, accepted))}.")


def _split(raw: bytes, count: int) -> list[bytes]:
    """The `count` elements of a binary BYTES tensor."""
    found: list[bytes] = []
    at = 0
    while at < len(raw) and len(found) < count:
        begin = at + LENGTH_BYTES
        at = begin + int.from_bytes(raw[at:begin], "little")
        found.append(raw[begin:at])
    if at != len(raw) or len(found) != count:
        raise MalformedBody(f"The binary tensor 'image' does not end after its {count} elements: send it whole.")
    return found


def _decoded(data: list[Any], count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor in JSON: base64, flat or in rows of one."""
    if len(data) != count:
        raise MalformedBody(f"The input 'image' has {len(data)} elements, but a shape of {count}.")
    flat = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
    if not all(isinstance(item, str) for item in flat):
        raise MalformedBody("The data of 'image' must be texts, each an encoded image in base64.")
    return [decode_base64(item) for item in flat]


def _crops(tensor: InputTensor, raw: bytes) -> Pixels:
    """The tensor `input`, uint8 (N, H, W, 3)."""
    try:
        values = np.frombuffer(raw if tensor.data is None else _bytes(tensor.data), np.uint8)
        return values.reshape(tensor.shape).copy()
    except ValueError as error:
        sentence = f"The input {INPUT!r} must be whole numbers from 0 to 255 of the shape {tensor.shape}."
        raise MalformedBody(sentence) from error


def _bytes(data: list[Any]) -> bytes:
    """Whole numbers from 0 to 255, flat or in nested lists of equal length; raises ValueError for anything else."""
    while set(map(type, data)) == {list} and len(set(map(len, data))) == 1:
        data = list(chain.from_iterable(data))
    if set(map(type, data)) != {int}:
        raise ValueError("not all are whole numbers")
    return bytes(data)


def _all_seen(outcomes: Sequence[Outcome]) -> list[Seen]:
    """What was read; the protocol has no place for errors of single images, so the first is that of the request."""
    for number, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, InputError):
            raise type(outcome)(f"Image {number} of {len(outcomes)}: {outcome}") from outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Seen)]


def _outputs(seen: list[Seen], texts: list[str]) -> dict[str, Output]:
    rows = (len(seen),)
    logits = np.stack([one.logits for one in seen])
    confidences = np.array([one.reading.confidence for one in seen], np.float32)
    return {
        "text": Output("BYTES", rows, texts),
        "confidence": Output("FP32", rows, confidences),
        "format": Output(
            "BYTES",
            rows,
            [",".join(one.reading.formats) if text else "" for one, text in zip(seen, texts, strict=True)],
        ),
        "logits": Output("FP32", logits.shape, logits),
    }


def _answer(request: InferRequest, manifest: Manifest, outputs: dict[str, Output]) -> Response:
    """The outputs that the request wants, each in JSON or behind it as it says."""
    tensors, blobs = [], []
    for wish in request.outputs or [OutputWish(name=name) for name in OUTPUTS]:
        output = outputs[wish.name]
        tensor: dict[str, Any] = _tensor(wish.name, output.datatype, list(output.shape))
        if wish.parameters.get("binary_data", request.parameters.binary_data_output):
            blobs.append(output.packed())
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = output.listed()
        tensors.append(tensor)
    named = {"model_name": manifest.variant, "model_version": manifest.version, "outputs": tensors}
    answer = json.dumps(named | ({"id": request.id} if request.id is not None else {})).encode()
    if not blobs:
        return Response(answer, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(answer))}
    return Response(b"".join([answer, *blobs]), headers=headers, media_type="application/octet-stream")
