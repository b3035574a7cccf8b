"""Answers: what is told of a request to read, to its client, to the metrics and to the access log."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from service.errors import InputError
from service.http import access_log, error_responses
from service.metrics import Metrics
from service.pipeline.items import Outcome, Seen, Timing
from service.reading.plates import doubt, plates_of


def record(metrics: Metrics, variant: str, outcomes: Sequence[Sequence[Outcome]], timing: Timing) -> None:
    """Count what a variant read on each image, and what it could not. What the finder saw and is too unsure to be
    a plate is not counted, so that streets without a car don't look like a dirty camera."""
    confidences: list[float] = []
    plates: list[int] = []
    for image in outcomes:
        refusals = [outcome for outcome in image if isinstance(outcome, InputError)]
        for refusal in refusals:
            metrics.failed(refusal.slug, variant)
        if not refusals:
            seen = [one for one in _seen(image) if one.plate is None or not doubt(one.reading, None, one.plate)]
            confidences += [one.reading.confidence if one.reading.text else 0 for one in seen]
            plates.append(sum(bool(one.plate or one.reading.text) for one in seen))
    metrics.read(confidences, plates, vars(timing), variant)


def log(request: Request, variant: str, results: Sequence[dict[str, Any]], log_plates: bool) -> None:
    """What the access log tells of an answer; the texts only where that was asked for."""
    plates = [plate for result in results for plate in result["plates"]]
    unread = sum(result["error"] is not None for result in results)
    access_log.note(request, variant=variant, images=len(results), plates=len(plates), unread=unread)
    if log_plates:
        access_log.note(request, texts=[plate["text"] for plate in plates])


def compose(filename: str | None, outcomes: Sequence[Outcome], min_confidence: float | None) -> dict[str, Any]:
    """What an answer says of one image: the fields of `wire.Result`, which would take longer to check than to write.

    Tests check them against it.
    """
    refusal, seen = refusal_of(outcomes), _seen(outcomes)
    plates, note = plates_of([(one.reading, one.width, one.height, one.plate) for one in seen], min_confidence)
    return {
        "filename": filename,
        "plates": [] if refusal else plates,
        "truncated": any(not isinstance(one, InputError) and one.truncated for one in outcomes),
        "note": None if refusal else note,
        "error": error_responses.fault(refusal) if refusal else None,
    }


def refusal_of(outcomes: Sequence[Outcome]) -> InputError | None:
    """Why an image cannot be read, by the outcomes of its items; None where it can."""
    for outcome in outcomes:
        if isinstance(outcome, InputError):
            return outcome
    return None


def _seen(outcomes: Sequence[Outcome]) -> list[Seen]:
    return [outcome for outcome in outcomes if isinstance(outcome, Seen)]
