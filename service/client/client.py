"""A client of the server: `Client` waits for answers, `AsyncClient` awaits them. It needs httpx (the extra `client`).

::

    with Client("http://127.0.0.1:8000") as client:
        for result in client.read("a.jpg", "b.jpg", formats=["cn-standard"]).results:
            print(result.filename, [plate.text for plate in result.plates], result.note, result.error)
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import httpx

from service.errors import Refused, Unreachable
from service.wire import Listing, Recognition, Served

Image = bytes | str | os.PathLike[str]  # an image file's content, or its path

URL = "http://127.0.0.1:8000"
WAITED_FOR = (429, 503)  # answers that carry Retry-After

How = Literal["blur", "pixelate", "fill"]


@dataclass(frozen=True)
class Covered:
    """An image whose plates are covered: its bytes and their media type.

    `plates`: how many places were covered, which may be more than there are plates. `truncated`: the file ended early,
    and what is missing is grey.
    """

    data: bytes
    media_type: str
    plates: int
    truncated: bool = False


class Client:
    """Every method raises Refused for an answer that is an error, and Unreachable where none comes.

    A server that is busy or restarts is asked again after the seconds that it names, `retries` times. Threads may share
    a client.
    """

    def __init__(self, url: str = URL, *, api_key: str | None = None, timeout: float = 30, retries: int = 3) -> None:
        """`timeout` is in seconds, of each step of a request."""
        self._http = httpx.Client(**_options(url, api_key, timeout))
        self._retries = retries

    def read(
        self,
        *images: Image,
        top_k: int = 3,
        formats: Sequence[str] = (),
        regions: Sequence[str] = (),
        min_confidence: float | None = None,
        variant: str | None = None,
        find: bool | None = None,
    ) -> Recognition:
        """Read the plates on images, all in one request; the parameters are those of POST /recognize.

        An image among several that cannot be read has its `error` in its result; alone, it raises Refused.
        """
        parameters = _parameters(top_k, formats, regions, min_confidence, variant, find)
        return Recognition.model_validate_json(
            self._send("POST", "recognize", params=parameters, files=[_part(image) for image in images])
        )

    def redact(self, image: Image, how: How = "blur") -> Covered:
        """An image with its plates covered, in its format; `how` is that of POST /redact."""
        return _covered(self._ask("POST", "redact", params={"how": how}, files=[_part(image)]))

    def variants(self) -> Listing:
        """The variants that are installed."""
        return Listing.model_validate_json(self._send("GET", "variants"))

    def activate(self, variant: str) -> Listing:
        """Have the server read with another variant; it must have API keys, and this client one of them."""
        return Listing.model_validate_json(self._send("POST", f"variants/{variant}/activate"))

    def model(self) -> Served:
        """The manifest of the active variant, and the engine that runs it."""
        return Served.model_validate_json(self._send("GET", "model"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, method: str, path: str, **content: Any) -> bytes:
        return self._ask(method, path, **content).content

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        left = self._retries
        while True:
            try:
                response = self._http.request(method, path, **content)
            except httpx.RequestError as error:
                raise _unreachable(self._http.base_url, error) from error
            if response.status_code not in WAITED_FOR or not left:
                return _checked(response)
            left -= 1
            time.sleep(_delay(response))


class AsyncClient:
    """The same as `Client`, to be awaited."""

    def __init__(self, url: str = URL, *, api_key: str | None = None, timeout: float = 30, retries: int = 3) -> None:
        """`timeout` is in seconds, of each step of a request."""
        self._http = httpx.AsyncClient(**_options(url, api_key, timeout))
        self._retries = retries

    async def read(
        self,
        *images: Image,
        top_k: int = 3,
        formats: Sequence[str] = (),
        regions: Sequence[str] = (),
        min_confidence: float | None = None,
        variant: str | None = None,
        find: bool | None = None,
    ) -> Recognition:
        """As `Client.read`."""
        parameters = _parameters(top_k, formats, regions, min_confidence, variant, find)
        parts = await asyncio.to_thread(lambda: [_part(image) for image in images])
        return Recognition.model_validate_json(await self._send("POST", "recognize", params=parameters, files=parts))

    async def redact(self, image: Image, how: How = "blur") -> Covered:
        """As `Client.redact`."""
        part = await asyncio.to_thread(_part, image)
        return _covered(await self._ask("POST", "redact", params={"how": how}, files=[part]))

    async def variants(self) -> Listing:
        """As `Client.variants`."""
        return Listing.model_validate_json(await self._send("GET", "variants"))

    async def activate(self, variant: str) -> Listing:
        """As `Client.activate`."""
        return Listing.model_validate_json(await self._send("POST", f"variants/{variant}/activate"))

    async def model(self) -> Served:
        """As `Client.model`."""
        return Served.model_validate_json(await self._send("GET", "model"))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, method: str, path: str, **content: Any) -> bytes:
        return (await self._ask(method, path, **content)).content

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        left = self._retries
        while True:
            try:
                response = await self._http.request(method, path, **content)
            except httpx.RequestError as error:
                raise _unreachable(self._http.base_url, error) from error
            if response.status_code not in WAITED_FOR or not left:
                return _checked(response)
            left -= 1
            await asyncio.sleep(_delay(response))


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Unreachable(f"{url!r} is no address such as {URL} ({error}).") from error
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": url, "headers": headers, "timeout": timeout}


def _parameters(
    top_k: int,
    formats: Sequence[str],
    regions: Sequence[str],
    min_confidence: float | None,
    variant: str | None,
    find: bool | None,
) -> dict[str, str | int | float]:
    given = {
        "format": ",".join(formats) or None,
        "region": ",".join(regions) or None,
        "min_confidence": min_confidence,
        "variant": variant,
        "find": None if find is None else int(find),
    }
    return {"top_k": top_k, **{name: value for name, value in given.items() if value is not None}}


def _part(image: Image) -> tuple[str, tuple[str | None, bytes, str]]:
    """A part of the form; the server sees for itself what kind of image it is."""
    if isinstance(image, bytes):
        return "image", (None, image, "application/octet-stream")
    name = os.fsencode(Path(image).name).decode("utf-8", "replace")  # which need not be UTF-8
    return "image", (name, Path(image).read_bytes(), "application/octet-stream")


def _covered(response: httpx.Response) -> Covered:
    told = response.headers
    return Covered(response.content, told["content-type"], int(told["x-plates"]), told.get("x-truncated") == "1")


def _checked(response: httpx.Response) -> httpx.Response:
    """A good answer; raises Refused with what another one says."""
    if response.is_success:
        return response
    try:
        detail = str(json.loads(response.content)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{response.url} answered {response.status_code} {response.reason_phrase}: is it this service?"
    raise Refused(detail, response.status_code)


def _delay(response: httpx.Response) -> float:
    seconds = response.headers.get("retry-after", "1")
    return float(seconds) if seconds.isdecimal() else 1.0


def _unreachable(url: httpx.URL, error: httpx.RequestError) -> Unreachable:
    return Unreachable(f"{url} does not answer ({error or type(error).__name__}): see that the server runs there.")
