"""Reading for the clients of another product: one image, through the same line as POST /recognize."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request

from service.artifact import Grammar
from service.http.admission import admitted
from service.http.answers import compose, log, record, refusal_of
from service.http.compatible.fields import Fields, read_fields
from service.http.fetch import fetched
from service.http.state import state_of
from service.http.uploads import gone
from service.pipeline.items import Timing
from service.reading.plates import restrict

CANDIDATES = 5


class Answer(NamedTuple):
    """What was read on an image: the fields of `wire.Result`, the request's own fields, and the times in seconds."""

    result: dict[str, Any]
    fields: Fields
    timing: Timing


def any_text(grammar: Grammar, fields: Fields) -> Grammar | None:
    """No restriction by the request of what a plate may say."""
    return None


async def read(request: Request, only: Callable[[Grammar, Fields], Grammar | None] = any_text) -> Answer:
    """Read the image of a request; raises LprError. `only` tells, by the request's fields, what a plate may
    say; where it is None, LPR_REGIONS does."""
    state = state_of(request)
    state.keys.check(request.headers)
    chosen = state.variants.choose(None)
    with admitted(request, state, chosen) as get:
        fields = await read_fields(request, state.limits)
        assert fields.image is not None
        (upload,) = await fetched(request, [fields.image], state.fetcher)
        recognizer = await get()
        grammar = recognizer.manifest.grammar
        allowed = only(grammar, fields) or restrict(grammar, None, None, state.regions)
        find = recognizer.finding(None)
        outcomes, timing = await recognizer.recognize(
            [upload.content], CANDIDATES, allowed, partial(gone, request), find
        )
        if refusal := refusal_of(outcomes[0]):
            raise refusal
        result = compose(upload.filename, outcomes[0], None)
        record(state.metrics, chosen, outcomes, timing)
    log(request, chosen, [result], state.log_plates)
    return Answer(result, fields, timing)


def upright(box: list[tuple[float, float]]) -> tuple[int, int, int, int]:
    """The upright box around four corners: least x and y, largest x and y, in whole pixels, none negative."""
    xs, ys = zip(*box, strict=True)
    left, top, right, bottom = (max(0, round(float(value))) for value in (min(xs), min(ys), max(xs), max(ys)))
    return left, top, right, bottom
