"""API keys: off unless LPR_API_KEYS holds some, compared in constant time, and never kept or logged in the clear."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers

from service.errors import BadKey, Forbidden


class Keys:
    """The keys that open the server; none means that it is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def check(self, headers: Headers) -> None:
        """Raise BadKey unless there are no keys or the headers carry one of them."""
        if self._digests and not self._known(_given(headers)):
            raise BadKey("This server wants an API key: send one in the header 'Authorization: Bearer KEY'.")

    def check_operator(self, headers: Headers) -> None:
        """The same for what changes the server, which nobody may while there are no keys: raises Forbidden."""
        if not self._digests:
            raise Forbidden("This server has no API keys, so nobody may change it: start it with LPR_API_KEYS.")
        self.check(headers)

    def _known(self, key: str) -> bool:
        """Each comparison takes as long as any other, and all of them are made."""
        digest = sha256(key.encode()).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def document(openapi: dict[str, Any]) -> None:
    """Have an OpenAPI document ask for a key wherever 401 may be the answer; for a server that has keys."""
    openapi["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for operations in openapi["paths"].values():
        for operation in operations.values():
            if "401" in operation["responses"]:
                operation["security"] = [{"key": []}]


def _given(headers: Headers) -> str:
    """The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`, or nothing."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
