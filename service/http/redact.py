"""POST /redact: an image back with its plates covered, in its format and size, without EXIF, location or profile."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError

from service.errors import BadParameter, check_names, first_fault
from service.finding.cover import How
from service.http import access_log
from service.http.admission import admitted
from service.http.answers import record, refusal_of
from service.http.fetch import fetched
from service.http.openapi import REFUSALS, REQUEST_BODY, documented
from service.http.requests import reader
from service.http.schema import inlined
from service.http.uploads import Limits, gone, read_images
from service.pipeline.items import Redacted

PLATES = "X-Plates"
TRUNCATED = "X-Truncated"

router = APIRouter()


class Covering(BaseModel):
    """The query of POST /redact."""

    how: Annotated[How, Field(description="How plates are covered. A blurred or pixelated one keeps its colour.")] = (
        "blur"
    )


_NAMES = list(Covering.model_fields)


async def redact(request: Request) -> Response:
    """All that may be a plate is covered, so that more is covered than POST /recognize gives. The answer has the
    format and the size of the image; a HEIC comes as JPEG, an animation as its first frame. X-Plates tells how many
    places were covered; X-Truncated: 1, that the file ended early and what is missing is grey. A plate may be missed:
    docs/redacting.md tells how many are."""
    state = await reader(request)
    how = _query(request).how
    chosen = state.variants.choose(None)
    with admitted(request, state, chosen) as get:
        uploads = await read_images(request, Limits(state.limits.max_bytes, 1), _NAMES)
        (upload,) = await fetched(request, uploads, state.fetcher)
        recognizer = await get()
        find = recognizer.finding(True)
        outcomes, timing = await recognizer.recognize([upload.content], 1, None, partial(gone, request), find, how)
        if refusal := refusal_of(outcomes[0]):
            raise refusal
        record(state.metrics, chosen, [], timing)
    (redacted,) = outcomes[0]
    assert isinstance(redacted, Redacted)
    access_log.note(request, variant=chosen, images=1, plates=redacted.plates)
    headers = {PLATES: str(redacted.plates), "Cache-Control": "no-store"}
    if redacted.truncated:
        headers[TRUNCATED] = "1"
    return Response(redacted.data, headers=headers, media_type=redacted.kind.media_type)


def _query(request: Request) -> Covering:
    given = request.query_params.multi_items()
    check_names("parameter", [name for name, _ in given], _NAMES)
    try:
        return Covering.model_validate(dict(given))
    except ValidationError as error:
        raise BadParameter(f"Parameter {first_fault(error)}.") from error


_IMAGE = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The image."}

router.post(
    "/redact",
    response_class=Response,
    responses={200: _IMAGE, **REFUSALS},
    openapi_extra={"parameters": documented(inlined(Covering)), **REQUEST_BODY},
    summary="Cover the plates on an image",
)(redact)
