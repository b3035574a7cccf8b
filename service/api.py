"""The HTTP interface: what goes in, what comes out, and short routes between them."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service import metrics, problems
from service.artifact import Manifest
from service.body import FIELD, IMAGE_TYPES, Limits, Upload, gone, read_images
from service.errors import Stopping
from service.metrics import Metrics
from service.recognizer import Recognizer, Seen, Timing


class FromAttributes(BaseModel):
    """Built from an object with the same attributes."""

    model_config = ConfigDict(from_attributes=True)


Confidence = Annotated[float, Field(ge=0, le=1)]


class Character(FromAttributes):
    """One character of the text."""

    char: str = Field(examples=["京"])
    confidence: Confidence = Field(description="Its largest probability where the best alignment sees it.")


class Candidate(FromAttributes):
    """One possible text."""

    text: str = Field(examples=["京A12345"])
    confidence: Confidence = Field(description="Probability of exactly this text.")


class Plate(FromAttributes):
    """One plate and what it says."""

    text: str = Field(examples=["京A12345"])
    confidence: Confidence = Field(description="Probability of exactly this text.")
    valid_format: bool = Field(description="Whether the text fits a known plate format.")
    format: str | None = Field(description="Name of the format it fits.", examples=["cn-blue"])
    characters: list[Character]
    candidates: list[Candidate] = Field(description="The `top_k` likeliest texts; the first is `text`.")
    box: Annotated[list[tuple[float, float]], Field(min_length=4, max_length=4)] = Field(
        description="Corners [x, y] in pixels, clockwise from the plate's top left, EXIF orientation applied.",
        examples=[[[0, 0], [94, 0], [94, 24], [0, 24]]],
    )


class Result(BaseModel):
    """What one image shows."""

    filename: str | None = Field(description="As sent with the part; null for a raw body.", examples=["plate.jpg"])
    plates: list[Plate] = Field(description="Empty if no character was seen.")


class Model(BaseModel):
    """Which model read it, and what ran it."""

    variant: str = Field(examples=["baseline"])
    version: str = Field(examples=["1.0.0"])
    engine: str = Field(examples=["torch 2.13.0"])


class TimingMs(FromAttributes):
    """Milliseconds in the server once the body had arrived, for all images of the request together."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


class Recognition(BaseModel):
    """The answer to POST /recognize: one result per image, in their order."""

    backend: str = Field(examples=["baseline"])
    model: Model
    results: list[Result]
    timing_ms: TimingMs


class Status(BaseModel):
    """A health probe's answer."""

    status: str = Field(examples=["ok"])


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {problems.MEDIA_TYPE: {"schema": problems.Problem.model_json_schema()}},
    }


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _problem("An image is empty, not an image, or cut off beyond use; or the multipart body does not parse."),
    408: _problem("The body took too long to arrive."),
    413: _problem("Too many bytes, or too many pixels."),
    415: _problem("Not an accepted media type."),
    422: _problem("No image, too many images, or `top_k` out of range."),
    429: _problem("Too much is waiting: try again after the seconds in Retry-After."),
    503: _problem(
        "Nobody read it in time, or the server is shutting down: try again after the seconds in Retry-After."
    ),
}

_BINARY = {"type": "string", "format": "binary"}
_PARTS = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "array", "items": _BINARY}}}
REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"One image as the body, or a form with one or more parts named `{FIELD}`.",
        "content": {"multipart/form-data": {"schema": _PARTS}, **{kind: {"schema": _BINARY} for kind in IMAGE_TYPES}},
    }
}


def _recognizer(request: Request) -> Recognizer:
    recognizer: Recognizer = request.app.state.recognizer
    return recognizer


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


TheRecognizer = Annotated[Recognizer, Depends(_recognizer)]
TheMetrics = Annotated[Metrics, Depends(_metrics)]
TheLimits = Annotated[Limits, Depends(_limits)]
TopK = Annotated[int, Query(ge=1, le=10, description="How many candidates to return for each plate.")]

router = APIRouter()


@router.post("/recognize", responses=REFUSALS, openapi_extra=REQUEST_BODY, summary="Read the plates on images")
async def recognize(
    request: Request, recognizer: TheRecognizer, metrics: TheMetrics, limits: TheLimits, top_k: TopK = 3
) -> Recognition:
    """Each image is a crop of one plate, as a detector cuts it."""
    with metrics.request():
        uploads = await read_images(request, limits)
        images = [upload.data for upload in uploads]
        seen, timing = await recognizer.recognize(images, top_k, gone=partial(gone, request))
        answer = _compose(recognizer, uploads, seen, timing)
        metrics.read([image.reading.confidence if image.reading.text else 0 for image in seen], asdict(timing))
    return answer


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Status:
    """Answers as long as the event loop turns."""
    return Status(status="ok")


@router.get("/readyz", responses={503: _problem("Shutting down.")}, summary="Should requests be sent here?")
async def readyz(recognizer: TheRecognizer) -> Status:
    """The model has computed its probe as published, and nobody has asked the server to stop."""
    if not recognizer.ready:
        raise Stopping("The server takes no more requests: send them to another one.")
    return Status(status="ready")


@router.get("/model", summary="The manifest of the model served")
async def model(recognizer: TheRecognizer) -> Manifest:
    """What the model is, where it came from, and what was measured of it."""
    return recognizer.manifest


@router.get("/metrics", include_in_schema=False)
async def scrape(the_metrics: TheMetrics) -> Response:
    """For Prometheus."""
    return Response(the_metrics.render(), media_type=metrics.CONTENT_TYPE)


def _compose(recognizer: Recognizer, uploads: list[Upload], seen: list[Seen], timing: Timing) -> Recognition:
    manifest = recognizer.manifest
    return Recognition(
        backend=manifest.variant,
        model=Model(variant=manifest.variant, version=manifest.version, engine=recognizer.engine),
        results=[
            Result(filename=upload.filename, plates=_plates(image)) for upload, image in zip(uploads, seen, strict=True)
        ],
        timing_ms=TimingMs(**{stage: round(1e3 * seconds, 3) for stage, seconds in asdict(timing).items()}),
    )


def _plates(seen: Seen) -> list[Plate]:
    """The image is one plate, or none where no character was seen on it."""
    if not seen.reading.text:
        return []
    width, height = seen.width, seen.height
    box = [(0, 0), (width, 0), (width, height), (0, height)]
    return [Plate.model_validate({**vars(seen.reading), "valid_format": seen.reading.valid_format, "box": box})]
