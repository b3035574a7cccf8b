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


@pytest.mark.parametrize("origin", ["https://App.Example", "HTTPS://app.example:443", "https://app.example:443"])
def test_an_origin_is_what_browsers_send_of_it(serving, origin):
    client = serving(origins=origin)
    assert preflight(client, PAGE).headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    ("origin", "sent"),
    [
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:8443", "https://a.example:8443"),
        ("https://192.0.2.1:443", "https://192.0.2.1"),
        ("http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("*", "*"),
    ],
)
def test_origins_are_normalised(origin, sent):
    assert Settings(origins=origin).origins == (sent,)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("Images.Example", "images.example"),
        ("images.example:443", "images.example:443"),
        ("[2606:4700:0::1111]:8080", "[2606:4700::1111]:8080"),
        ("93.184.216.34", "93.184.216.34"),
        ("localhost.example", "localhost.example"),
    ],
)
def test_hosts_are_normalised(host, named):
    assert Settings(fetch=host).fetch == (named,)


PLACES = ["a:99999", "a:0", "a:080", "a:", "a:x", ":80", "", ".", "a..b", "-a", "a-", "a_b", 64 * "a", "a." * 130 + "a"]
ADDRESSES = ["[::1", "::1", "[::1%eth0]", "[x]", "[]", "256.1.1.1", "1.2.3", "a@b", "a/", "a b", "ä.example"]


@pytest.mark.parametrize("place", [*PLACES, *ADDRESSES])
def test_a_host_that_can_be_none_is_refused(place):
    with pytest.raises(ValueError, match="name hosts such as" if place else "fetch"):
        Settings(fetch=[place])
    with pytest.raises(ValueError, match="an origin is what stands before the path"):
        Settings(origins=[f"https://{place}"])


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.5",
        "127.0.0.1:8080",
        "169.254.169.254",
        "[::1]",
        "[fd00::1]:80",
        "localhost",
        "Localhost:80",
        "a.localhost",
    ],
)
def test_a_host_from_which_nothing_would_be_fetched_is_refused(host):
    with pytest.raises(ValueError, match=r"not on the public internet.*let what has the images send them"):
        Settings(fetch=f"images.example,{host}")


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
