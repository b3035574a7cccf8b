"""Client of the server, and the command line `lpr`. They import nothing of the server, and httpx only for `Client`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """The clients, imported at their first use: the command line works without httpx."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service.client import client

    return getattr(client, name)
