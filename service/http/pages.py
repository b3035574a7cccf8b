"""What people look at: the page at `/` and the API's documentation at `/docs`, without a build step or a foreign host.

The page's files lie in `static/`; Swagger UI's come from the package fastapi-offline, of which nothing else is used.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

_COMMON = {
    "Cache-Control": "no-cache",  # ask again each time: the answer is 304 unless the server was upgraded
    "Referrer-Policy": "no-referrer",
}
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
# Swagger UI sets styles in its markup, and its style sheet holds images.
_DOCS_POLICY = f"{_POLICY}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"


class _Files(StaticFiles):
    """Static files with the headers that all of them get."""

    def file_response(self, *args, **kwargs) -> Response:  # type: ignore[no-untyped-def]
        response = super().file_response(*args, **kwargs)
        response.headers.update(_COMMON)
        return response


def install(app: FastAPI) -> None:
    """Add the page and the documentation to `app`, which must have no `docs_url` of its own."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return _html("index.html", _POLICY)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return _html("docs.html", _DOCS_POLICY)

    app.mount("/static/swagger", _Files(packages=[("fastapi_offline", "static")]))
    app.mount("/static", _Files(directory=STATIC))


def _html(name: str, policy: str) -> FileResponse:
    return FileResponse(STATIC / name, headers=_COMMON | {"Content-Security-Policy": policy})
