"""Requests and answers that several tests send and check."""

import httpx

from service import errors

KEY = "a key of 20 letters."
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
JPEG = {"Content-Type": "image/jpeg"}


def activate(client: httpx.Client, name: str) -> httpx.Response:
    return client.post(f"/variants/{name}/activate", headers=AUTHORIZED)


def problem(response: httpx.Response, status: int, error: type[errors.LprError]) -> str:
    """Check that a response is the refusal of `error`; returns its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["type"]) == (status, f"urn:lpr:{error.slug}")
    assert set(body) == {"type", "title", "status", "detail", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"].endswith(".")
    return body["detail"]
