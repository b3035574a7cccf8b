"""The only place where the parts are wired together."""

import logging
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cv2
from fastapi import FastAPI

from service import api, artifact, page, problems
from service.body import Limits
from service.door import Door
from service.metrics import Metrics, Shared
from service.recognizer import Recognizer
from service.settings import Settings

DESCRIPTION = "Reads licence plates: send a crop of a plate, get its text with confidences and alternatives."


def create_app(settings: Settings, shared: Shared | None = None) -> FastAPI:
    """The application with its model loaded and proven; raises ArtifactError where that fails.

    `shared` is where it counts together with other processes.
    """
    _quiet_libraries()
    found = artifact.find(settings.artifacts, settings.backend)
    recognizer = Recognizer(
        found,
        settings.threads,
        settings.queue,
        settings.max_pixels,
        deadline_s=settings.deadline_ms / 1e3,
        batch_wait_s=settings.batch_wait_ms / 1e3,
    )
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
    app.state.metrics = Metrics(settings.backend, found.manifest.version, recognizer.engine, problems.causes(), shared)
    recognizer.on_batch = app.state.metrics.batch
    app.add_middleware(Door, most_bytes=settings.queue_bytes, upload_s=settings.upload_s)
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
