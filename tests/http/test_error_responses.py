"""One place answers errors: whatever is raised inside it becomes a problem, and is counted once."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.http.error_responses import EXPECTED, MEDIA_TYPE, ErrorResponses
from service.settings import REPOSITORY
from tests.support.answers import JPEG
from tests.support.images import encode

Messages = list[dict[str, Any]]


def served(error: Exception, *, started: bool = False) -> tuple[Messages, list[tuple[str, str]], Exception | None]:
    """What is sent of a request that ends with an error, what is counted, and what is raised again."""
    sent: Messages = []
    counted: list[tuple[str, str]] = []
    metrics = SimpleNamespace(failed=lambda cause, backend: counted.append((cause, backend)))
    app = SimpleNamespace(state=SimpleNamespace(lpr=SimpleNamespace(metrics=metrics)))

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200})
        raise error

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "query_string": b"",
        "headers": [(b"host", b"x")],
    }
    scope |= {"app": app, "state": {"request_id": "7", "facts": {"variant": "tiny"}}, "server": ("x", 80)}
    try:
        asyncio.run(ErrorResponses(inside)(scope, None, send))  # type: ignore[arg-type]
    except Exception as raised:
        return sent, counted, raised
    return sent, counted, None


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (errors.Busy("Too much."), 429, "busy"),
        (errors.SlowUpload("Too slow."), 408, "slow_upload"),
        (RequestValidationError([{"loc": ("path", "name"), "msg": "too long"}]), 422, "bad_parameter"),
        (HTTPException(405), 405, None),
        (ZeroDivisionError(), 500, "internal"),
    ],
)
def test_what_is_raised_inside_is_answered_as_a_problem_and_counted_once(error, status, cause):
    (start, body), counted, raised = served(error)
    assert start["status"] == status
    assert (b"content-type", MEDIA_TYPE.encode()) in start["headers"]
    assert json.loads(body["body"])["request_id"] == "7"
    assert counted == ([(cause, "tiny")] if cause else [])
    assert (raised is None) == isinstance(error, EXPECTED)  # the log tells of what is not expected


def test_an_error_behind_the_beginning_of_an_answer_is_no_second_answer():
    sent, counted, raised = served(errors.Busy("Too much."), started=True)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert (counted, type(raised)) == ([], errors.Busy)


def test_no_other_module_makes_a_problem_or_counts_a_request_that_failed():
    for path in (REPOSITORY / "service").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "error_responses.py":
            assert "Problem(" not in text.replace("class Problem(", ""), path
            assert "exception_handler" not in text, path


def test_refusals_of_admission_of_routes_and_of_fastapi_look_alike(serving):
    client = serving(queue_bytes=20_000, max_bytes=20_000, api_keys="a key of 20 letters.")
    key = {"X-API-Key": "a key of 20 letters."}
    answers = [
        client.post("/recognize", content=encode(), headers=JPEG),
        client.post("/recognize?top_k=0", content=encode(), headers=JPEG | key),
        client.post("/variants/" + "x" * 201 + "/activate", headers=key),
        client.get("/recognize"),
        client.post("/recognize", content=bytes(20_001), headers=JPEG | key),
        client.post("/recognize", content=b"x", headers=JPEG | key),
    ]
    assert [answer.status_code for answer in answers] == [401, 422, 422, 405, 413, 400]
    assert {answer.headers["content-type"] for answer in answers} == {MEDIA_TYPE}
    counted = client.get("/metrics").text
    for line in (
        'backend="none",cause="bad_key"} 1.0',
        'backend="none",cause="bad_parameter"} 2.0',
        'backend="tiny",cause="body_too_large"} 1.0',
        'backend="tiny",cause="undecodable_image"} 1.0',
    ):
        assert f"lpr_errors_total{{{line}" in counted
