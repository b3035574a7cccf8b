"""What an application consists of, for its routes; `app.py` makes it."""

from dataclasses import dataclass

from starlette.requests import Request

from service.http.auth import Keys
from service.http.uploads import Limits
from service.metrics import Metrics
from service.pipeline.registry import Variants
from service.pipeline.shadow import Shadow


@dataclass(frozen=True)
class Parts:
    """Everything that outlives a request. `log_plates`: whether the access log may hold texts."""

    variants: Variants
    shadow: Shadow | None
    metrics: Metrics
    limits: Limits
    keys: Keys
    log_plates: bool


def parts_of(request: Request) -> Parts:
    """The parts of the application that a request came to."""
    parts: Parts = request.app.state.parts
    return parts
