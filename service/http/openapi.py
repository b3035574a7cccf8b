"""Parts of the OpenAPI document that FastAPI cannot derive: refusals with an example each, bodies, parameters."""

from typing import Any

from service import errors
from service.errors import LprError
from service.http import error_responses
from service.http.schema import JsonImages, Options, inlined
from service.http.uploads import FIELD, FORM, IMAGE_TYPES, JSON, OCTETS
from service.wire import Problem


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
        errors.BadKey("This server wants an API key: send one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."),
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


def documented(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of a model as parameters of a query, as FastAPI would document them if it took them apart itself."""
    return [
        {"name": name, "in": "query", "required": False, "description": field.pop("description"), "schema": field}
        for name, field in schema["properties"].items()
    ]


PARAMETERS = documented(inlined(Options))
