"""Requests: who may send one, and what its query asks for, checked before the body is read."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import Depends, Path, Request, Response
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from service.errors import BadParameter, check_names, first_fault
from service.http.openapi import PARAMETERS
from service.http.schema import Options
from service.http.state import State, state_of

NAMES: Final = [str(parameter["name"]) for parameter in PARAMETERS]  # of the query
_DEFAULTS = Options()


# Each is async, because FastAPI calls any other on a thread. Each costs a request about as much as its decoding, and so
# does each parameter of a route: POST /recognize does without, and calls what it needs.
async def anybody(request: Request) -> State:
    return state_of(request)


async def reader(request: Request) -> State:
    """Raise BadKey unless the request may be read; before its body is."""
    state = state_of(request)
    state.keys.check(request.headers)
    return state


async def operator(request: Request) -> State:
    state = state_of(request)
    state.keys.check_operator(request.headers)
    return state


async def no_query(request: Request) -> None:
    """Raise BadParameter for any parameter."""
    check_names("parameter", list(request.query_params), ())


LONGEST_NAME = 200  # characters
Name = Annotated[str, Path(max_length=LONGEST_NAME)]  # of a variant, or a version
NO_QUERY = [Depends(no_query)]
Anybody = Annotated[State, Depends(anybody)]
Reader = Annotated[State, Depends(reader)]
Operator = Annotated[State, Depends(operator)]


class Plain:
    """The endpoint of a Starlette route without Starlette's own handling of errors: `error_responses` answers them."""

    def __init__(self, respond: Callable[[Request], Awaitable[Response]]) -> None:
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)


def query(request: Request) -> Options:
    """The query of a request to read plates; raises BadParameter."""
    if not request.scope["query_string"]:
        return _DEFAULTS
    given = request.query_params.multi_items()
    check_names("parameter", [name for name, _ in given], NAMES)
    try:
        return Options.model_validate(dict(given))
    except ValidationError as error:
        raise BadParameter(f"Parameter {first_fault(error)}.") from error
