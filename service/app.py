"""The only place where the parts are wired together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cv2
from fastapi import FastAPI

from service import api, page, problems
from service.artifact import Artifact
from service.body import Limits
from service.keys import Keys
from service.metrics import Metrics
from service.recognizer import Recognizer
from service.settings import Settings
from service.variants import Variants

DESCRIPTION = "Reads licence plates: send a crop of a plate, get its text with confidences and alternatives."


def create_app(settings: Settings) -> FastAPI:
    """The application with its model loaded and proven; raises ArtifactError where that fails."""
    _quiet_libraries()

    def load(found: Artifact) -> Recognizer:
        return Recognizer(found, settings.threads, settings.queue, settings.max_pixels)

    variants = Variants(settings.artifacts, settings.backend, load, settings.choice)
    manifest, engine = variants.active.manifest, variants.active.engine
    app = FastAPI(
        title="Licence-plate reader",
        version=manifest.version,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # its own pages load scripts from a foreign host
        redoc_url=None,
    )
    app.state.variants = variants
    app.state.keys = Keys(key.get_secret_value() for key in settings.api_keys)
    app.state.limits = Limits(settings.max_bytes, settings.max_images)
    app.state.metrics = Metrics(settings.backend, manifest.version, engine, problems.causes())
    app.include_router(api.router)
    page.install(app)
    problems.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.variants.close()


def _quiet_libraries() -> None:
    """One thread per image is enough for OpenCV, and what a client's bytes made a decoder say belongs in no log."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
