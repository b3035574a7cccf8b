"""The one place where an error becomes an HTTP answer: application/problem+json (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.errors import LprError
from service.http import access_log
from service.http.state import parts_of
from service.metrics import NONE
from service.wire import Fault, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

STATUS: dict[type[LprError], HTTPStatus] = {
    errors.BadKey: HTTPStatus.UNAUTHORIZED,
    errors.BadParameter: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.Busy: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ClientGone: HTTPStatus.BAD_REQUEST,
    errors.EmptyImage: HTTPStatus.BAD_REQUEST,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.MalformedBody: HTTPStatus.BAD_REQUEST,
    errors.NoImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NoSuchVariant: HTTPStatus.NOT_FOUND,
    errors.SlowUpload: HTTPStatus.REQUEST_TIMEOUT,
    errors.Stopping: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooLate: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyImages: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooManyPixels: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UndecodableImage: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.VariantUnusable: HTTPStatus.CONFLICT,
}

HEADERS: dict[type[LprError], dict[str, str]] = {
    errors.Busy: {"Retry-After": str(RETRY_AFTER_S)},
    errors.Stopping: {"Retry-After": str(RETRY_AFTER_S)},
    errors.TooLate: {"Retry-After": str(RETRY_AFTER_S)},
    errors.BadKey: {"WWW-Authenticate": "Bearer"},
    # Closing stops the sender; `connection.py` throws away what is on its way.
    errors.BodyTooLarge: {"Connection": "close"},
    errors.SlowUpload: {"Connection": "close"},
}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a Problem, and count those of the service by their cause."""
    app.add_exception_handler(LprError, _lpr_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)


def fault(error: LprError) -> Fault:
    """An error as answers tell it."""
    return _fault(STATUS[type(error)], error.slug, str(error))


def causes() -> list[str]:
    """The causes that errors are counted by."""
    return [*(error.slug for error in STATUS), "internal"]


async def _lpr_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LprError)
    return refuse(request, error)


def refuse(request: Request, error: LprError) -> Response:
    """The answer to a request that ends with `error`, which is counted."""
    _count(request, error.slug)
    return _answer(request, STATUS[type(error)], error.slug, str(error), HEADERS.get(type(error)))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return await _lpr_error(request, errors.BadParameter(f"Parameter {first['loc'][-1]}: {first['msg']}."))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    path = request.url.path[: errors.ECHOED]
    detail = f"{request.method} {path}: {error.detail}. GET /docs describes what there is."
    return _answer(request, status, status.name.lower(), detail, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    _count(request, "internal")
    detail = "The server failed, and its log says why: try again, and report it if it happens again."
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, None)


def _count(request: Request, cause: str) -> None:
    """Under the variant that the request chose, so that alarms divide failures and requests of the same variant."""
    parts_of(request).metrics.failed(cause, access_log.noted(request, "variant") or NONE)


def _answer(
    request: Request, status: HTTPStatus, slug: str, detail: str, headers: Mapping[str, str] | None
) -> Response:
    access_log.note(request, error=slug)
    number = access_log.request_id(request)
    problem = Problem(**_fault(status, slug, detail).model_dump(), request_id=number)
    content = problem.model_dump()
    if request.url.path.startswith("/v2"):
        content["error"] = detail  # where clients of the Open Inference Protocol look
    # Their middleware does not see the answer to an unexpected error, hence these headers here too.
    also = {access_log.HEADER: number} | access_log.NOT_SNIFFED
    return Response(json.dumps(content), status, {**(headers or {}), **also}, MEDIA_TYPE)


def _fault(status: HTTPStatus, slug: str, detail: str) -> Fault:
    return Fault(type=f"urn:lpr:{slug}", title=status.phrase, status=status, detail=detail)
