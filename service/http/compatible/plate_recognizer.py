"""POST /v1/plate-reader/ as Plate Recognizer's Snapshot API answers it.

https://guides.platerecognizer.com/docs/snapshot/api-reference: `upload` (a file, or base64) or `upload_url`, `regions`,
`camera_id`, `timestamp`, `config`, `mmc`. Vehicles are not looked for, so `vehicle` has the plate's box and no score.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service import errors
from service.artifact import Grammar
from service.errors import ECHOED, LprError
from service.http import error_responses
from service.http.compatible.fields import Fields
from service.http.compatible.reading import Answer, read, upright
from service.http.requests import Plain

# Statuses that this interface documents where ours are others.
STATUS: Final[Mapping[type[LprError], HTTPStatus]] = {
    errors.BadKey: HTTPStatus.FORBIDDEN,
    errors.NoImage: HTTPStatus.BAD_REQUEST,
    errors.TooManyImages: HTTPStatus.BAD_REQUEST,
    errors.Unfetchable: HTTPStatus.BAD_REQUEST,
}
# As the product answers on premises, where Home Assistant counts on it. Nothing is counted here.
USAGE: Final = {"max_calls": 1_000_000, "calls": 0}
VEHICLE: Final[dict[str, Any]] = {"model_make": [], "color": [], "orientation": []}  # what `mmc` asks for, unknown here


async def plate_reader(request: Request) -> Response:
    """Read the plates on one image."""
    try:
        answer = await read(request, of_regions)
    except LprError as error:
        status = STATUS.get(type(error), error_responses.STATUS[type(error)])
        return error_responses.foreign(request, error, status, {"detail": str(error), "status_code": int(status)})
    content = json.dumps(compose(answer), ensure_ascii=False)
    return Response(content, HTTPStatus.CREATED, media_type="application/json")


def of_regions(grammar: Grammar, fields: Fields) -> Grammar | None:
    """The texts of the regions that a request names, where its `config` has {"region": "strict"} and they are known.

    Otherwise regions are a guide, as they are documented, and the reader needs none.
    """
    try:
        config = json.loads(fields.text("config") or "{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or config.get("region") != "strict":
        return None
    named = ",".join(fields.texts.get("regions", ())).lower().split(",")
    countries = {region.strip().partition("-")[0] for region in named}.intersection(grammar.regions)
    return grammar.within(countries) if countries else None


def compose(answer: Answer) -> dict[str, Any]:
    """The documented fields of an answer."""
    fields, camera = answer.fields, answer.fields.text("camera_id")
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    more = VEHICLE if (fields.text("mmc") or "").lower() in ("true", "1") else {}
    return {
        "processing_time": round(1e3 * answer.timing.total, 3),
        "results": [_result(plate) | more for plate in answer.result["plates"]],
        "filename": answer.result["filename"] or "upload",
        "version": 1,
        "camera_id": None if camera is None else camera[:ECHOED],
        "timestamp": (fields.text("timestamp") or now)[:ECHOED],
        "usage": USAGE,
    }


def _result(plate: dict[str, Any]) -> dict[str, Any]:
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), upright(plate["box"]), strict=True))
    region = plate["region"] or {"code": "", "probability": 0.0}
    return {
        "box": box,
        "plate": plate["text"].lower(),
        "region": {"code": region["code"], "score": region["probability"]},
        "score": plate["confidence"],
        "candidates": [{"score": one["confidence"], "plate": one["text"].lower()} for one in plate["candidates"]],
        "dscore": plate["confidence"] if plate["found"] is None else plate["found"],
        "vehicle": {"score": 0.0, "type": "Unknown", "box": box},
    }


_ENDPOINT = Plain(plate_reader)
ROUTES: Final = [Route(path, _ENDPOINT, methods=["POST"]) for path in ("/v1/plate-reader/", "/v1/plate-reader")]
