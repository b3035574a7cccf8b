"""The HTTP interface: what goes in, what comes out, and short routes between them."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.errors import (
    BadParameter,
    InputError,
    LprError,
    check_names,
    first_fault,
)
from service.http import access_log, error_responses
from service.http.schema import JsonImages, Options, inlined
from service.http.state import Parts, parts_of
from service.http.uploads import (
    FIELD,
    FORM,
    IMAGE_TYPES,
    JSON,
    OCTETS,
    Upload,
    gone,
    read_images,
)
from service.metrics import CONTENT_TYPE, Metrics
from service.pipeline.recognizer import Outcome, Seen, Timing
from service.reading.plates import doubt, plate, restrict
from service.wire import Listing, Problem, Recognition, Served, Status


def _problem(description: str, example: LprError) -> dict[str, Any]:
    shown = error_responses.fault(example).model_dump(mode="json") | {"request_id": "5f0c3a9e"}
    return {
        "description": description,
        "content": {error_responses.MEDIA_TYPE: {"schema": inlined(Problem), "example": shown}},
    }


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _problem(
        "The image is empty, not an image, or cut off beyond use; or the body does not parse.",
        errors.UndecodableImage("The image is damaged or was cut off: send the whole file, unchanged."),
    ),
    401: _problem(
        "The server has API keys, and the request carries none of them.",
        errors.BadKey("This server wants an API key: send one in the header 'Authorization: Bearer KEY'."),
    ),
    404: _problem(
        "The variant asked for is not installed.",
        errors.NoSuchVariant("There is no variant 'tvn'; installed are baseline, tvm."),
    ),
    408: _problem(
        "The body took too long to arrive.",
        errors.SlowUpload("The body took over 30 s to arrive: send less at a time."),
    ),
    409: _problem(
        "The variant asked for is installed, but cannot be used.",
        errors.VariantUnusable("The variant 'tvm' cannot be used here: its engine is not installed."),
    ),
    413: _problem(
        "Too many bytes, or too many pixels.",
        errors.BodyTooLarge("The request body is larger than 16,777,216 bytes: send fewer or smaller images."),
    ),
    415: _problem(
        "The content is no image, form or JSON.",
        errors.UnsupportedMediaType("The content has the Content-Type 'text/plain' and is no image that is known."),
    ),
    422: _problem(
        "No image, too many images, or a parameter that is unknown, repeated or out of range.",
        errors.BadParameter("Parameter top_k: Input should be less than or equal to 10."),
    ),
    429: _problem(
        "Too much is waiting: try again after the seconds in Retry-After.",
        errors.Busy("Too many bytes are arriving or waiting just now: try again in a moment."),
    ),
    503: _problem(
        "Nobody read it in time, or the server is shutting down: try again after the seconds in Retry-After.",
        errors.Stopping("The server takes no more requests: send them to another one."),
    ),
}
REFUSALS_TO_CHANGE: dict[int | str, dict[str, Any]] = {
    401: REFUSALS[401],
    403: _problem(
        "The key may read, and not change the server; or the server has no keys, so nobody may.",
        errors.Forbidden("This server has no keys, so nobody may change it: start it with LPR_ADMIN_KEYS."),
    ),
    404: REFUSALS[404],
    409: _problem(
        "It cannot be loaded or does not prove itself; the active one stays.",
        errors.VariantUnusable("The variant 'tvm' cannot be used here: its probe does not come out as published."),
    ),
    422: REFUSALS[422],
    503: REFUSALS[503],
}
UNKNOWN_PARAMETER: dict[int | str, dict[str, Any]] = {422: REFUSALS[422]}

_BINARY = {"type": "string", "format": "binary"}
_PARTS = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "array", "items": _BINARY}}}
REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"One image as the body, a form with one or more parts named `{FIELD}`, or JSON with images.",
        "content": {
            FORM: {"schema": _PARTS},
            **{kind: {"schema": _BINARY} for kind in (*IMAGE_TYPES, OCTETS)},
            JSON: {"schema": inlined(JsonImages)},
        },
    }
}


# As FastAPI would document the fields of Options if it took them apart itself.
PARAMETERS = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": schema.pop("description"),
        "schema": schema,
    }
    for name, schema in inlined(Options)["properties"].items()
]
_NAMES = [str(parameter["name"]) for parameter in PARAMETERS]
_DEFAULTS = Options()

NOTHING = Timing(0, 0, 0, 0, 0, 0)  # where not one image was worth a look


# Each is async, because FastAPI calls any other on a thread. Each costs a request about as much as its decoding, and so
# does each parameter of a route: POST /recognize does without, and calls what it needs.
async def _anybody(request: Request) -> Parts:
    return parts_of(request)


async def _reader(request: Request) -> Parts:
    """Raise BadKey unless the request may be read; before its body is."""
    parts = parts_of(request)
    parts.keys.check(request.headers)
    return parts


async def _operator(request: Request) -> Parts:
    parts = parts_of(request)
    parts.keys.check_operator(request.headers)
    return parts


async def _no_query(request: Request) -> None:
    """Raise BadParameter for any parameter."""
    check_names("parameter", list(request.query_params), ())


Name = Annotated[str, Path(max_length=200)]  # of a variant, or a version
NO_QUERY = [Depends(_no_query)]
Anybody = Annotated[Parts, Depends(_anybody)]
Reader = Annotated[Parts, Depends(_reader)]
Operator = Annotated[Parts, Depends(_operator)]
router = APIRouter()


async def recognize(request: Request) -> Response:
    """Each image is a crop of one plate, as a detector cuts it. Of several images, those that cannot be read have their
    error beside the others' results."""
    parts = await _reader(request)
    options = query(request)
    variants = parts.variants
    chosen = variants.choose(options.variant)
    access_log.note(request, variant=chosen)
    with parts.metrics.request(chosen):
        uploads = await read_images(request, parts.limits)
        recognizer = await variants.get(variants.choose(options.variant))  # another may be active by now
        only = restrict(recognizer.manifest.grammar, options.formats)
        images = [upload.data for upload in uploads if upload.refusal is None]
        read: list[Outcome] = []
        timing = NOTHING
        if images:
            read, timing = await recognizer.recognize(images, options.top_k, only, gone=partial(gone, request))
        outcomes = _interleave(uploads, read)
        if len(outcomes) == 1 and isinstance(refusal := outcomes[0], InputError):
            raise refusal
        manifest = recognizer.manifest
        results = [
            compose(upload.filename, outcome, options.min_confidence)
            for upload, outcome in zip(uploads, outcomes, strict=True)
        ]
        record(parts.metrics, manifest.variant, outcomes, timing)
    if parts.shadow and only is None and manifest.variant == variants.name:
        parts.shadow.offer(images, read)
    _note(request, manifest.variant, results, parts.log_plates)
    answer = {
        "backend": manifest.variant,
        "model": {"variant": manifest.variant, "version": manifest.version, "engine": recognizer.engine},
        "results": results,
        "timing_ms": {stage: round(1e3 * seconds, 3) for stage, seconds in vars(timing).items()},
    }
    return Response(to_json(answer), media_type=JSON)


_OK = to_json(Status(status="ok"))  # written once: the probes of a thousand clients may come together


async def healthz(request: Request) -> Response:
    """Answers as long as the event loop turns."""
    return Response(_OK, media_type=JSON)


_SHORT = {("POST", "/recognize"): recognize, ("GET", "/healthz"): healthz}


class Shortcut:
    """ASGI middleware that calls the routes in `_SHORT` itself.

    FastAPI's own way to a route costs a fifth of the CPU time of a reading, and most of that of a health probe: of
    1,000 probes at once, the last was answered after 0.33 to 0.42 s, through FastAPI after 0.52 to 0.61 s (AMD EPYC).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is not expected is left to the middleware around."""
        route = _SHORT.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await route(request)
        except LprError as error:
            response = error_responses.refuse(request, error)
        await response(scope, receive, send)


router.post(
    "/recognize",
    response_model=Recognition,
    responses=REFUSALS,
    openapi_extra={"parameters": PARAMETERS, **REQUEST_BODY},
    summary="Read the plates on images",
)(recognize)


@router.get(
    "/variants",
    dependencies=NO_QUERY,
    response_model=Listing,
    responses=UNKNOWN_PARAMETER,
    summary="The variants that are installed",
)
async def installed(parts: Anybody) -> Response:
    """What was measured of each, which one is active, and which ones a request may choose."""
    return Response(await parts.variants.listing(), media_type=JSON)


@router.post(
    "/variants/{name}/activate",
    dependencies=NO_QUERY,
    response_model=Listing,
    responses=REFUSALS_TO_CHANGE,
    summary="Read with another variant from now on",
)
async def activate(name: Name, parts: Operator) -> Response:
    """It is loaded beside the active one and proves itself by its probe; then new requests go to it, and the old one
    finishes what it has. A failure changes nothing and says why. The same name loads files that were replaced."""
    await parts.variants.activate(name)
    return Response(await parts.variants.listing(), media_type=JSON)


router.get("/healthz", response_model=Status, summary="Is the process alive?")(healthz)


@router.get("/readyz", responses={503: REFUSALS[503]}, summary="Should requests be sent here?")
async def readyz(parts: Anybody) -> Status:
    """The model has computed its probe as published, and nobody has asked the server to stop."""
    parts.variants.check_ready()
    return Status(status="ready")


@router.get(
    "/model",
    dependencies=NO_QUERY,
    responses=UNKNOWN_PARAMETER,
    summary="The manifest of the model served, and its engine",
)
async def model(parts: Anybody) -> Served:
    """What the model is, where it came from, what was measured of it, and what runs it on this CPU."""
    active = parts.variants.active
    return Served.model_validate({**active.manifest.model_dump(), "engine": active.engine})


@router.get("/metrics", include_in_schema=False)
async def scrape(parts: Anybody) -> Response:
    """For Prometheus."""
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE)


def query(request: Request) -> Options:
    """The query of a request to read plates; raises BadParameter."""
    if not request.scope["query_string"]:
        return _DEFAULTS
    given = request.query_params.multi_items()
    check_names("parameter", [name for name, _ in given], _NAMES)
    try:
        return Options.model_validate(dict(given))
    except ValidationError as error:
        raise BadParameter(f"Parameter {first_fault(error)}.") from error


def _interleave(uploads: Sequence[Upload], read: Sequence[Outcome]) -> list[Outcome]:
    """One outcome per upload: its refusal, or the next of what was read."""
    outcomes = iter(read)
    return [upload.refusal or next(outcomes) for upload in uploads]


def record(metrics: Metrics, variant: str, outcomes: Sequence[Outcome], timing: Timing) -> None:
    """Count what a variant read, and what it could not."""
    readings = [outcome.reading for outcome in outcomes if isinstance(outcome, Seen)]
    metrics.read([reading.confidence if reading.text else 0 for reading in readings], vars(timing), variant)
    for outcome in outcomes:
        if isinstance(outcome, InputError):
            metrics.failed(outcome.slug, variant)


def _note(request: Request, variant: str, results: Sequence[dict[str, Any]], log_plates: bool) -> None:
    """What the access log tells of an answer; the texts only where that was asked for."""
    plates = [plate for result in results for plate in result["plates"]]
    unread = sum(result["error"] is not None for result in results)
    access_log.note(request, variant=variant, images=len(results), plates=len(plates), unread=unread)
    if log_plates:
        access_log.note(request, texts=[plate["text"] for plate in plates])


def compose(filename: str | None, outcome: Outcome, min_confidence: float) -> dict[str, Any]:
    """What an answer says of one image: the fields of `wire.Result`, which would take longer to check than to write.

    Tests check them against it.
    """
    if isinstance(outcome, InputError):
        return {
            "filename": filename,
            "plates": [],
            "truncated": False,
            "note": None,
            "error": error_responses.fault(outcome),
        }
    note = doubt(outcome.reading, min_confidence)
    plates = [] if note else [plate(outcome.reading, outcome.width, outcome.height)]
    return {"filename": filename, "plates": plates, "truncated": outcome.truncated, "note": note, "error": None}
