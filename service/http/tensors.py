"""Tensors of the Open Inference Protocol: JSON and bytes of a request to images, readings to those of the answer."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from service.artifact import Manifest
from service.errors import BadParameter, MalformedBody, NoImage, first_fault, quoted
from service.http import bounded_json
from service.http.uploads import Limits, check_count, decode_base64
from service.pipeline.items import Seen
from service.reading.containers import Encoded
from service.reading.geometry import Pixels
from service.reading.plates import plate

HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors
IMAGE, INPUT = "image", "input"
OUTPUTS = ("text", "confidence", "format", "logits", "region")
WHERE = (IMAGE, "box")  # further outputs, where plates are found in photographs
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
    region: Text | None = None
    find: bool = False
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    binary_data_output: bool = False


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    id: Text | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[OutputWish], Field(max_length=len(OUTPUTS + WHERE))] = []

    @property
    def wanted(self) -> list[OutputWish]:
        """The outputs of the answer: those that are named, else all there are."""
        return self.outputs or [
            OutputWish(name=name) for name in (OUTPUTS + WHERE if self.parameters.find else OUTPUTS)
        ]


@dataclass(frozen=True)
class Output:
    """A tensor of the answer: rows of texts, or an array of float32 or int32."""

    datatype: str
    shape: tuple[int, ...]
    values: list[str] | NDArray[np.float32 | np.int32]

    def listed(self) -> list[Any]:
        """The values as JSON has them, flat."""
        values: list[Any] = self.values if isinstance(self.values, list) else self.values.ravel().tolist()
        return values

    def packed(self) -> bytes:
        """The values as the binary extension has them."""
        if not isinstance(self.values, list):
            return self.values.astype(self.values.dtype.newbyteorder("<")).tobytes()
        texts = [text.encode() for text in self.values]
        return b"".join(len(text).to_bytes(LENGTH_BYTES, "little") + text for text in texts)


def described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    """The metadata of a tensor."""
    return {"name": name, "datatype": datatype, "shape": shape}


def free_shape(shape: Sequence[int | str]) -> list[int]:
    """A manifest's shape as the protocol has it: free dimensions are -1."""
    return [size if isinstance(size, int) else -1 for size in shape]


def read_request(
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
        case "input", "UINT8" if request.parameters.find:
            raise BadParameter("Parameter find: the input 'input' holds crops; give photographs as 'image'.")
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
    if unknown := [name for name in names if name not in OUTPUTS + WHERE]:
        raise MalformedBody(f"There is no output {quoted(unknown[0])}; choose among {', '.join(OUTPUTS + WHERE)}.")
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


class Row(NamedTuple):
    """A row of the answer: what was seen, its text, empty where it is too unsure, and the number of its image."""

    seen: Seen
    text: str
    image: int


def outputs_of(rows: Sequence[Row], manifest: Manifest) -> dict[str, Output]:
    """All outputs there are, with these rows."""
    seen, count = [row.seen for row in rows], (len(rows),)
    formats = [",".join(row.seen.reading.formats) if row.text else "" for row in rows]
    confidences = np.array([_confidence(one) for one in seen], np.float32)
    regions = [row.seen.reading.region.code if row.text and row.seen.reading.region else "" for row in rows]
    frames, classes = map(int, manifest.output.shape[1:])
    logits = np.array([one.logits for one in seen], np.float32).reshape(*count, frames, classes)
    boxes = [plate(one.reading, one.width, one.height, one.plate)["box"] for one in seen]
    return {
        "text": Output("BYTES", count, [row.text for row in rows]),
        "confidence": Output("FP32", count, confidences),
        "format": Output("BYTES", count, formats),
        "logits": Output("FP32", logits.shape, logits),
        "region": Output("BYTES", count, regions),
        IMAGE: Output("INT32", count, np.array([row.image for row in rows], np.int32)),
        "box": Output("FP32", (*count, 8), np.array(boxes, np.float32).reshape(*count, 8)),
    }


def _confidence(seen: Seen) -> float:
    """That of the text; of a plate that was found and has none, 0."""
    return seen.reading.confidence if seen.reading.text or seen.plate is None else 0.0


def answer(request: InferRequest, manifest: Manifest, outputs: dict[str, Output]) -> Response:
    """The outputs that the request wants, each in JSON or behind it as it says."""
    tensors, blobs = [], []
    for wish in request.wanted:
        output = outputs[wish.name]
        tensor: dict[str, Any] = described(wish.name, output.datatype, list(output.shape))
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
