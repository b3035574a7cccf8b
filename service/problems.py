"""The one place where an error becomes an HTTP answer: application/problem+json (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from service import errors
from service.errors import LprError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

STATUS: dict[type[LprError], HTTPStatus] = {
    errors.BadParameter: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.Busy: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ClientGone: HTTPStatus.BAD_REQUEST,
    errors.EmptyImage: HTTPStatus.BAD_REQUEST,
    errors.MalformedBody: HTTPStatus.BAD_REQUEST,
    errors.NoImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.SlowUpload: HTTPStatus.REQUEST_TIMEOUT,
    errors.Stopping: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooLate: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyImages: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooManyPixels: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UndecodableImage: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}

HEADERS: dict[type[LprError], dict[str, str]] = {
    errors.Busy: {"Retry-After": str(RETRY_AFTER_S)},
    errors.Stopping: {"Retry-After": str(RETRY_AFTER_S)},
    errors.TooLate: {"Retry-After": str(RETRY_AFTER_S)},
    # What was not read of a refused body must not be taken for the next request; closing also stops the sender.
    errors.BodyTooLarge: {"Connection": "close"},
    errors.SlowUpload: {"Connection": "close"},
    errors.UnsupportedMediaType: {"Connection": "close"},
    errors.TooManyImages: {"Connection": "close"},
    errors.MalformedBody: {"Connection": "close"},
}


class Problem(BaseModel):
    """Why a request was refused; `detail` says what to send instead."""

    type: str = Field(examples=["urn:lpr:undecodable_image"])
    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["The image is damaged or was cut off: send the whole file, unchanged."])


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a Problem, and count those of the service by their cause."""
    app.add_exception_handler(LprError, _lpr_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)


def causes() -> list[str]:
    """The causes that errors are counted by."""
    return [*(error.slug for error in STATUS), "internal"]


async def _lpr_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LprError)
    return refuse(request.app, error)


def refuse(app: FastAPI, error: LprError) -> Response:
    """The answer to a request that ends with `error`, which is counted."""
    app.state.metrics.failed(error.slug)
    return _answer(STATUS[type(error)], error.slug, str(error), HEADERS.get(type(error)))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return await _lpr_error(request, errors.BadParameter(f"Parameter {first['loc'][-1]}: {first['msg']}."))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = f"{request.method} {request.url.path}: {error.detail}. GET /docs describes what there is."
    return _answer(status, status.name.lower(), detail, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    request.app.state.metrics.failed("internal")
    detail = "The server failed, and its log says why: try again, and report it if it happens again."
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, None)


def _answer(status: HTTPStatus, slug: str, detail: str, headers: Mapping[str, str] | None) -> Response:
    problem = Problem(type=f"urn:lpr:{slug}", title=status.phrase, status=status, detail=detail)
    return Response(problem.model_dump_json(), status, headers, MEDIA_TYPE)
