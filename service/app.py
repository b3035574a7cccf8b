"""The only place where the parts are wired together."""

import logging
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cv2
from fastapi import FastAPI

from service import api, artifact, page, problems
from service.body import Limits
from service.metrics import Metrics
from service.recognizer import Recognizer
from service.settings import Settings

DESCRIPTION = "Reads licence plates: send a crop of a plate, get its text with confidences and alternatives."


def create_app(settings: Settings) -> FastAPI:
    """The application with its model loaded and proven; raises ArtifactError where that fails."""
    _quiet_libraries()
    found = artifact.find(settings.artifacts, settings.backend)
    recognizer = Recognizer(found, settings.threads, settings.queue, settings.max_pixels)
    app = FastAPI(
        title="Licence-plate reader",
        version=found.manifest.version,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # its own pages load scripts from a foreign host
        redoc_url=None,
    )
    app.state.recognizer = recognizer
    app.state.limits = Limits(settings.max_bytes, settings.max_images)
    app.state.metrics = Metrics(settings.backend, found.manifest.version, recognizer.engine, problems.causes())
    app.include_router(api.router)
    page.install(app)
    problems.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.recognizer.close()


def _quiet_libraries() -> None:
    """One thread per image is enough for OpenCV, and what a client's bytes made a decoder say belongs in no log."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")
