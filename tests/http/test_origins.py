"""CORS: pages of the origins that LPR_ORIGINS names may ask this server, and no others."""

import pytest

from service.settings import Settings
from tests.support.answers import JPEG
from tests.support.images import encode

PAGE = "https://app.example"


def preflight(client, origin: str):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return client.options("/recognize", headers=headers)


def test_a_named_origin_may_ask_and_see_errors(serving):
    client = serving(origins=PAGE)
    assert preflight(client, PAGE).headers["access-control-allow-origin"] == PAGE
    for content, status in ((encode(), 200), (b"x", 400)):
        response = client.post("/recognize", content=content, headers={"Origin": PAGE, **JPEG})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, PAGE)
    for other in ("https://other.example", "http://app.example", "https://app.example.other.example", "null"):
        assert preflight(client, other).status_code == 400
        response = client.post("/recognize", content=encode(), headers={"Origin": other, **JPEG})
        assert "access-control-allow-origin" not in response.headers


def test_no_origin_may_ask_by_default(client):
    assert "access-control-allow-origin" not in preflight(client, PAGE).headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("origins", "app.example"),
        ("origins", "https://a.example/"),
        ("origins", " , "),
        ("fetch", "https://a.example"),
        ("fetch", "a.example/x"),
        ("fetch", "*"),
        ("compatible", "openalpr"),
    ],
)
def test_settings_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=field):
        Settings(**{field: value})
