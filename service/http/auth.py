"""API keys: readers' and administrators', compared in constant time, and never kept or logged in the clear."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers

from service.errors import BadKey, Forbidden


class Keys:
    """The keys that open the server: those of `readers` to read, where there are any, those of `admins` to change it.

    Administrators may read too. Where there are no administrators and nobody else reaches the server (`local`), readers
    may change it.
    """

    def __init__(self, readers: Iterable[str], admins: Iterable[str] = (), *, local: bool = False) -> None:
        self._readers, self._admins = _digests(readers), _digests(admins)
        self._readers_change = local and not self._admins

    def check(self, headers: Headers) -> None:
        """Raise BadKey unless anybody may read or the headers carry one of the keys."""
        if self._readers:
            self._known(headers)

    def check_operator(self, headers: Headers) -> None:
        """Raise Forbidden or BadKey unless the headers carry a key of those who may change the server."""
        if not self._readers and not self._admins:
            raise Forbidden(
                "This server has neither LPR_API_KEYS nor LPR_ADMIN_KEYS, so nobody may change it: start it with "
                "LPR_ADMIN_KEYS."
            )
        digest = self._known(headers)
        if not self._readers_change and not _among(digest, self._admins):
            raise Forbidden(
                "This key may read, and not change the server: send a key of LPR_ADMIN_KEYS."
                if self._admins
                else "A key of LPR_API_KEYS may read, and not change a server that others can reach: start it with "
                "LPR_ADMIN_KEYS, and send one of those."
            )

    def _known(self, headers: Headers) -> bytes:
        """The digest of the key that the headers carry; raises BadKey where it is none of ours."""
        digest = _digest(_given(headers))
        if not _among(digest, self._readers + self._admins):
            raise BadKey("This server wants an API key: send one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
        return digest


def document(openapi: dict[str, Any], *, reading: bool) -> None:
    """Have an OpenAPI document ask for a key wherever 401 may be the answer; unless `reading` needs one, to change the
    server alone."""
    openapi["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for operations in openapi["paths"].values():
        for operation in operations.values():
            if "401" in operation["responses"] and (reading or "403" in operation["responses"]):
                operation["security"] = [{"key": []}]


def _digests(keys: Iterable[str]) -> list[bytes]:
    return [_digest(key) for key in keys]


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _among(digest: bytes, digests: Iterable[bytes]) -> bool:
    """Each comparison takes as long as any other, and all of them are made."""
    return sum(hmac.compare_digest(digest, known) for known in digests) > 0


def _given(headers: Headers) -> str:
    """The key in `Authorization: Bearer KEY`, `Authorization: Token KEY` or `X-API-Key: KEY`, or nothing."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() in ("bearer", "token") else headers.get("x-api-key", "")
