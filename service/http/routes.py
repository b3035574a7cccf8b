"""Routes of the server's own API: what goes in, what comes out, and a line of steps between them."""

from functools import partial

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json
from starlette.routing import Route

from service.http.admission import admitted
from service.http.answers import compose, log, record, refusal_of
from service.http.fetch import fetched
from service.http.openapi import PARAMETERS, REFUSALS, REFUSALS_TO_CHANGE, REQUEST_BODY, UNKNOWN_PARAMETER
from service.http.requests import NAMES, NO_QUERY, Anybody, Name, Operator, Plain, query, reader
from service.http.uploads import JSON, gone, read_images
from service.metrics import CONTENT_TYPE
from service.reading.plates import restrict
from service.wire import Listing, Recognition, Served, Status

router = APIRouter()


async def recognize(request: Request) -> Response:
    """Each image is a photograph with any number of plates, or a crop of one. Of several images, those that cannot be
    read have their error beside the others' results."""
    state = await reader(request)
    options = query(request)
    chosen = state.variants.choose(options.variant)
    with admitted(request, state, chosen) as get:
        uploads = await fetched(request, await read_images(request, state.limits, NAMES), state.fetcher)
        recognizer = await get()
        only = restrict(recognizer.manifest.grammar, options.formats, options.regions, state.regions)
        images = [upload.content for upload in uploads]
        find = recognizer.finding(options.find)
        outcomes, timing = await recognizer.recognize(images, options.top_k, only, partial(gone, request), find)
        if len(outcomes) == 1 and (refusal := refusal_of(outcomes[0])):
            raise refusal
        results = [
            compose(upload.filename, outcome, options.min_confidence)
            for upload, outcome in zip(uploads, outcomes, strict=True)
        ]
        record(state.metrics, chosen, outcomes, timing)
    if state.shadow and options.formats is None and options.regions is None and chosen == state.variants.name:
        state.shadow.offer(images, outcomes, find)
    log(request, chosen, results, state.log_plates)
    answer = {
        "backend": chosen,
        "model": {"variant": chosen, "version": recognizer.manifest.version, "engine": recognizer.engine},
        "results": results,
        "timing_ms": {stage: round(1e3 * seconds, 3) for stage, seconds in vars(timing).items()},
    }
    return Response(to_json(answer), media_type=JSON)


_OK = to_json(Status(status="ok"))  # written once: the probes of a thousand clients may come together


async def healthz(request: Request) -> Response:
    """Answers as long as the event loop turns."""
    return Response(_OK, media_type=JSON)


# Before FastAPI's routes, which stay for the document: its way to a route takes 123 us of CPU time for a health probe,
# Starlette's own 41 us. Dispatching by hand took 24 us: not worth it, of a reading it is half a percent.
PLAIN = [Route("/recognize", Plain(recognize), methods=["POST"]), Route("/healthz", Plain(healthz), methods=["GET"])]
PLAIN[1].methods = {"GET"}  # Starlette adds HEAD, which no other route here has

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
async def installed(state: Anybody) -> Response:
    """What was measured of each, which one is active, and which ones a request may choose."""
    return Response(await state.variants.listing(), media_type=JSON)


@router.post(
    "/variants/{name}/activate",
    dependencies=NO_QUERY,
    response_model=Listing,
    responses=REFUSALS_TO_CHANGE,
    summary="Read with another variant from now on",
)
async def activate(name: Name, state: Operator) -> Response:
    """It is loaded beside the active one and proves itself by its probe; then new requests go to it, and the old one
    finishes what it has. A failure changes nothing and says why. The same name loads files that were replaced."""
    await state.variants.activate(name)
    return Response(await state.variants.listing(), media_type=JSON)


router.get("/healthz", response_model=Status, summary="Is the process alive?")(healthz)


@router.get("/readyz", responses={503: REFUSALS[503]}, summary="Should requests be sent here?")
async def readyz(state: Anybody) -> Status:
    """The model has computed its probe as published, and nobody has asked the server to stop."""
    state.variants.check_ready()
    return Status(status="ready")


@router.get(
    "/model",
    dependencies=NO_QUERY,
    responses=UNKNOWN_PARAMETER,
    summary="The manifest of the model served, and its engine",
)
async def model(state: Anybody) -> Served:
    """What the model is, where it came from, what was measured of it, and what runs it on this CPU."""
    active = state.variants.active
    more = {"engine": active.engine, "finds": active.finding(None)}
    return Served.model_validate(active.manifest.model_dump() | more)


@router.get("/metrics", include_in_schema=False)
async def scrape(state: Anybody) -> Response:
    """For Prometheus."""
    return Response(state.metrics.render(), media_type=CONTENT_TYPE)
