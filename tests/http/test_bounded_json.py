"""JSON that would cost far more than its bytes is refused before it is parsed; what clients need is read."""

import base64
import json
import tracemalloc
from typing import Any

import httpx
import pytest

from service.errors import MalformedBody
from service.http import bounded_json
from tests.support.images import encode

IMAGES, NUMBERS = 2, 3000
SIZE = 300_000  # bytes

BOMBS = {
    "numbers": b"[" + b"0," * (SIZE // 2) + b"0]",
    "empty texts": b"[" + b'"",' * (SIZE // 3) + b"0]",
    "members": b"{" + b'"a":0,' * (SIZE // 6) + b'"a":0}',
    "lists": b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "depth": b"[" * SIZE,
    "depth within bounds": b"[" * 1000 + b"]" * 1000,
    "objects in depth": b'{"a":' * 1000 + b"0" + b"}" * 1000,
    "quotes": b'"' * SIZE,
    "white space": b"[0" + b" " * SIZE + b"]",
    "one long number": b"[" + b"1" * 4000 + b"]",
    "long numbers": b"[" + b",".join([b"1" * 4000] * (SIZE // 4000)) + b"]",
    "a long fraction": b"[0." + b"1" * 4000 + b"]",
    "wide text": b'["' + b"A" * SIZE + "😀".encode() + b'"]',
    "wide text by an escape": b'["' + b"A" * SIZE + b'\\ud83d\\ude00"]',
    "wide text around quotes": b'["' + ("😀" + "A" * 900 + '\\"').encode() * 40 + b'"]',
    "wide name": b'{"' + "京".encode() * (SIZE // 3) + b'":0}',
    "half a surrogate": b'["\\ud83d"]',
    "no number": b"[NaN]",
    "infinity": b"[-Infinity]",
    "no end": b'["' + b"A" * SIZE,
    "backslashes": b'["' + b"\\" * (SIZE + 1) + b'"]',
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_the_memory_of_its_bytes(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBody) as refusal:
            bounded_json.load(body, IMAGES, NUMBERS)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body) + 100_000
    finally:
        tracemalloc.stop()
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("path", ["/recognize", "/v2/models/tiny/infer"])
@pytest.mark.parametrize("start", [b"", b'{"images":', b'{"inputs":', b'{"inputs":[{"shape":', b'{"x":{"y":'])
def test_a_bomb_is_refused_wherever_it_stands(client: httpx.Client, path: str, start: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for bomb in ("numbers", "members", "long numbers", "wide text", "depth"):
        answer = client.post(path, content=start + BOMBS[bomb], headers=headers)
        assert (answer.status_code, len(answer.content) < 1000) == (400, True), bomb


@pytest.mark.parametrize(
    "value",
    [
        {"images": [{"data": "A" * SIZE, "filename": "京.jpg"}] * IMAGES},
        {"images": [{"data": "京" * 150}], "escaped": '"\\"\\\\', "numbers": [0.1, -1e-9, 2**63, None, True]},
        list(range(NUMBERS)),
        [[[number] * 3] for number in range(NUMBERS // 3)],
        "",
        {},
    ],
)
@pytest.mark.parametrize("writing", [{}, {"ensure_ascii": False}, {"indent": 4}])
def test_what_a_request_needs_is_read(value: Any, writing: dict[str, Any]) -> None:
    assert bounded_json.load(json.dumps(value, **writing).encode(), IMAGES, NUMBERS) == value


def test_the_escapes_of_other_libraries_in_base64_are_read(client: httpx.Client) -> None:
    text = base64.b64encode(encode(".bmp")).decode()
    dotnet, php = text.replace("+", "\\u002B"), text.replace("/", "\\/")
    for written in (dotnet, php, "\\r\\n".join(text[at : at + 76] for at in range(0, len(text), 76))):
        body = f'{{"images": [{{"data": "{written}"}}]}}'
        answer = client.post("/recognize", content=body, headers={"Content-Type": "application/json"})
        assert answer.json()["results"][0]["plates"], answer.text


def test_a_large_body_is_read_too(client: httpx.Client) -> None:
    """Off the event loop."""
    data = encode(".bmp") + bytes(200_000)
    answer = client.post("/recognize", json={"images": [{"data": base64.b64encode(data).decode()}]})
    assert answer.json()["results"][0]["plates"], answer.text
