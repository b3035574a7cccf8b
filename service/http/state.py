"""State: everything of the application that outlives a request; `app.py` makes it."""

from dataclasses import dataclass

from starlette.requests import Request

from service.http.auth import Keys
from service.http.fetch import Fetcher
from service.http.uploads import Limits
from service.metrics import Metrics
from service.pipeline.budget import Budget
from service.pipeline.registry import Variants
from service.pipeline.shadow import Shadow


@dataclass(frozen=True)
class State:
    """What routes and middleware share. `log_plates`: whether the access log may hold texts."""

    variants: Variants
    budget: Budget
    shadow: Shadow | None
    metrics: Metrics
    limits: Limits
    keys: Keys
    log_plates: bool
    fetcher: Fetcher | None = None


def state_of(request: Request) -> State:
    """The state of the application that a request came to."""
    state: State = request.app.state.lpr
    return state
