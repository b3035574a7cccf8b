"""Error responses: the one place where an error becomes an HTTP answer, application/problem+json (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.errors import LprError
from service.http import access_log
from service.http.state import state_of
from service.metrics import NONE
from service.wire import Fault, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
EXPECTED = (LprError, RequestValidationError, HTTPException)

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
    errors.Unfetchable: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.VariantUnusable: HTTPStatus.CONFLICT,
}

HEADERS: dict[type[LprError], dict[str, str]] = {
    errors.Busy: {"Retry-After": str(RETRY_AFTER_S)},
    errors.Stopping: {"Retry-After": str(RETRY_AFTER_S)},
    errors.TooLate: {"Retry-After": str(RETRY_AFTER_S)},
    errors.BadKey: {"WWW-Authenticate": "Bearer"},
    # Closing stops the sender; `process/connections.py` throws away what is on its way.
    errors.BodyTooLarge: {"Connection": "close"},
    errors.SlowUpload: {"Connection": "close"},
}


class ErrorResponses:
    """ASGI middleware that answers every error of what is inside it with a Problem, and counts it by its cause."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. An unexpected error is raised again, so that the log tells of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if started:
                raise
            await _response(Request(scope), error)(scope, receive, send)
            if not isinstance(error, EXPECTED):
                raise


def install(app: FastAPI) -> None:
    """Answer every error of `app`, and of the middleware that it has so far, with a Problem."""
    for foreign in (RequestValidationError, HTTPException):
        app.add_exception_handler(foreign, _pass_on)
    app.add_middleware(ErrorResponses)


async def _pass_on(request: Request, error: Exception) -> Response:
    """In place of FastAPI's own answers."""
    raise error


def fault(error: LprError) -> Fault:
    """An error as answers tell it."""
    return _fault(STATUS[type(error)], error.slug, str(error))


def foreign(request: Request, error: LprError, status: HTTPStatus, content: Mapping[str, object]) -> Response:
    """The answer to an error in the format of another product, counted and logged as all are."""
    _count(request, error.slug)
    access_log.note(request, error=error.slug)
    return Response(json.dumps(content), status, HEADERS.get(type(error)), "application/json")


def causes() -> list[str]:
    """The causes that errors are counted by."""
    return [*(error.slug for error in STATUS), "internal"]


def _response(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        error = errors.BadParameter(f"Parameter {first['loc'][-1]}: {first['msg']}.")
    match error:
        case LprError():
            _count(request, error.slug)
            return _answer(request, STATUS[type(error)], error.slug, str(error), HEADERS.get(type(error)))
        case HTTPException():
            status = HTTPStatus(error.status_code)
            path = request.url.path[: errors.ECHOED]
            detail = f"{request.method} {path}: {error.detail}. GET /docs describes what there is."
            return _answer(request, status, status.name.lower(), detail, error.headers)
    _count(request, "internal")
    detail = "The server failed, and its log says why: try again, and report it if it happens again."
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, None)


def _count(request: Request, cause: str) -> None:
    """Under the variant that the request chose, so that alarms divide failures and requests of the same variant."""
    state_of(request).metrics.failed(cause, access_log.noted(request, "variant") or NONE)


def _answer(
    request: Request, status: HTTPStatus, slug: str, detail: str, headers: Mapping[str, str] | None
) -> Response:
    access_log.note(request, error=slug)
    number = access_log.request_id(request)
    problem = Problem(**_fault(status, slug, detail).model_dump(), request_id=number)
    content = problem.model_dump()
    if request.url.path.startswith("/v2"):
        content["error"] = detail  # where clients of the Open Inference Protocol look
    return Response(json.dumps(content), status, headers, MEDIA_TYPE)


def _fault(status: HTTPStatus, slug: str, detail: str) -> Fault:
    return Fault(type=f"urn:lpr:{slug}", title=status.phrase, status=status, detail=detail)
