"""Licence-plate reader: `Reader` in a program, `python -m service` as a server.

`import service` loads nothing else; `service.reader` describes `Reader`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.reader import Reader

__all__ = ["Reader"]


def __getattr__(name: str) -> Any:
    if name != "Reader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service.reader import Reader

    return Reader
