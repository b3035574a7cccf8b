"""Interfaces of other products over the same recognition, for programs that speak them already. Off by default."""

from collections.abc import Sequence

from starlette.routing import Route

from service.http.compatible import codeproject, plate_recognizer

_ROUTES = {"plate-recognizer": plate_recognizer.ROUTES, "codeproject": codeproject.ROUTES}


def routes(names: Sequence[str]) -> list[Route]:
    """The routes of the interfaces with these names, as LPR_COMPATIBLE has them."""
    return [route for name in dict.fromkeys(names) for route in _ROUTES[name]]
