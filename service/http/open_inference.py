"""The Open Inference Protocol, version 2, as KServe, Triton and others speak it: every installed variant is a model.

A model takes one input of two: `image`, an encoded file per plate (BYTES), or `input`, the crops as its network takes
them (UINT8). It gives `text` (empty where its confidence is less than `min_confidence`), `confidence`, `format` (the
names of the formats that the text fits, with commas between), `logits`, and `region` (the code of the country, or
nothing). Tensors stand in the JSON, where an encoded
image is base64, or behind it as bytes: the protocol's extension for binary tensor data. The parameters `format`,
`region` and `min_confidence` of a request are those of POST /recognize.

A row of the outputs is an image, read as a crop of one plate. With the parameter `find`, which needs the input `image`,
a row is a plate that was found in one of the photographs and is not left out as too unsure; there may be none.
Two further outputs say where it is: `image`, the number of its photograph from 0 on, and `box`, x and y of its four
corners in pixels, as POST /recognize has them.

https://github.com/kserve/open-inference-protocol, and for the extension Triton's protocol/extension_binary_data.md
"""

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.routing import Route

from service.artifact import Manifest
from service.errors import BadParameter, NoSuchVariant, VariantUnusable, quoted
from service.http import access_log
from service.http.admission import admitted
from service.http.answers import record, refusal_of
from service.http.openapi import REFUSALS
from service.http.requests import LONGEST_NAME, NO_QUERY, Anybody, Name, Plain, Reader, no_query, reader
from service.http.schema import inlined
from service.http.state import State
from service.http.tensors import (
    HEADER_LENGTH,
    IMAGE,
    INPUT,
    InferRequest,
    Parameters,
    Row,
    answer,
    described,
    free_shape,
    outputs_of,
    read_request,
)
from service.http.uploads import gone, parsed, read_whole
from service.pipeline.items import Outcome, Seen
from service.reading.plates import doubt, restrict

EXTENSIONS = ["binary_tensor_data"]


async def _manifest(request: Request, name: str, state: State) -> Manifest:
    """The manifest of the model in the address; raises NoSuchVariant or VariantUnusable."""
    manifest = await state.variants.manifest(name)
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
async def ready(state: Anybody) -> dict[str, Any]:
    """As GET /readyz."""
    state.variants.check_ready()
    return {"ready": True}


@router.get("/models/{name}", responses=UNUSABLE, summary="What a variant takes and gives")
@router.get("/models/{name}/versions/{version}", include_in_schema=False)
async def model(request: Request, name: Name, state: Anybody) -> dict[str, Any]:
    """Its tensors; a request gives one of the two inputs."""
    manifest = await _manifest(request, name, state)
    taken = [described(IMAGE, "BYTES", [-1]), described(INPUT, "UINT8", free_shape(manifest.input.shape))]
    given = [
        described("text", "BYTES", [-1]),
        described("confidence", "FP32", [-1]),
        described("format", "BYTES", [-1]),
        described("logits", "FP32", free_shape(manifest.output.shape)),
        described("region", "BYTES", [-1]),
        described(IMAGE, "INT32", [-1]),
        described("box", "FP32", [-1, 8]),
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
async def model_ready(request: Request, name: Name, state: Anybody) -> dict[str, Any]:
    """Whether it is loaded, or can be on its first request."""
    await _manifest(request, name, state)
    state.variants.check_ready()
    if problem := await state.variants.problem(name):
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
async def infer(request: Request, name: Name, state: Reader) -> Response:
    """A row for each image, read as a crop of one plate, or with the parameter `find` for each plate found. All outputs
    are given where the request names none; `image` and `box` then only with `find`."""
    chosen = state.variants.choose(name)
    access_log.note(request, variant=chosen)
    manifest = await _manifest(request, chosen, state)
    with admitted(request, state, chosen) as get:
        body = await read_whole(request, state.limits)
        length = request.headers.get(HEADER_LENGTH)
        parse = partial(read_request, header_length=length, manifest=manifest, limits=state.limits)
        asked, images = await parsed(body, parse)
        recognizer = await get()
        only = restrict(recognizer.manifest.grammar, asked.parameters.format, asked.parameters.region, state.regions)
        find = asked.parameters.find and recognizer.finding(True)
        outcomes, timing = await recognizer.recognize(images, 1, only, gone=partial(gone, request), find=find)
        rows = _rows(outcomes, asked.parameters)
        record(state.metrics, chosen, outcomes, timing)
    texts = [row.text for row in rows]
    access_log.note(request, images=len(images), plates=sum(map(bool, texts)))
    if state.log_plates:
        access_log.note(request, texts=texts)
    return answer(asked, recognizer.manifest, outputs_of(rows, recognizer.manifest))


async def _infer(request: Request) -> Response:
    """As FastAPI calls `infer`."""
    await no_query(request)
    state = await reader(request)
    name = request.path_params["name"]
    if len(name) > LONGEST_NAME:
        raise BadParameter(f"Parameter name: String should have at most {LONGEST_NAME} characters.")
    return await infer(request, name, state)


PATHS = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
PLAIN = [Route(path, Plain(_infer), methods=["POST"]) for path in PATHS]  # as in `routes`, before FastAPI's own


def _rows(outcomes: Sequence[Sequence[Outcome]], parameters: Parameters) -> list[Row]:
    """What was seen on all images; the protocol has no place for errors of single images, so the first is that of the
    request."""
    rows = []
    for number, image in enumerate(outcomes):
        if refusal := refusal_of(image):
            raise type(refusal)(f"Image {number + 1} of {len(outcomes)}: {refusal}") from refusal
        for seen in image:
            if isinstance(seen, Seen):
                unsure = doubt(seen.reading, parameters.min_confidence, seen.plate)
                if not (unsure and parameters.find):
                    rows.append(Row(seen, "" if unsure else seen.reading.text, number))
    return rows
