"""The application: the only place where its parts are wired together."""

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

import cv2
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware.cors import CORSMiddleware

from service import artifact
from service.artifact import Artifact
from service.http import auth, compatible, error_responses, open_inference, pages, redact, routes
from service.http.access_log import Access
from service.http.admission import Admission
from service.http.auth import Keys
from service.http.fetch import Fetcher
from service.http.state import State
from service.http.uploads import Limits
from service.metrics import Metrics, Shared
from service.pipeline.budget import Budget
from service.pipeline.recognizer import Recognizer
from service.pipeline.registry import Variants
from service.pipeline.shadow import Shadow
from service.settings import Settings

DESCRIPTION = (
    "Reads licence plates: send a photograph or a crop of a plate, get texts with confidences and alternatives."
)
CLOSE_S = 0.4  # seconds that the threads have to end, once nobody is served any more


def create_app(settings: Settings, shared: Shared | None = None) -> FastAPI:
    """The application with its model loaded and proven; raises ArtifactError where that fails.

    `shared` is the directory of metric files that the workers share.
    """
    _quiet_libraries()

    finder = artifact.find_finder(settings.artifacts, settings.finder) if settings.finder else None
    budget = Budget(settings.queue, settings.threads, settings.max_pixels)

    def load(found: Artifact) -> Recognizer:
        recognizer = Recognizer(
            found,
            settings.threads,
            budget,
            settings.max_pixels,
            deadline_s=settings.deadline_ms / 1e3,
            batch_wait_s=settings.batch_wait_ms / 1e3,
            finder=finder,
        )
        # The metrics are there by the time that the first image is.
        recognizer.on_batch = lambda images, cpu_s: app.state.lpr.metrics.batch(found.manifest.variant, images, cpu_s)
        return recognizer

    variants = Variants(
        settings.artifacts, settings.variant, load, settings.choice, settings.shadow, settings.switch_file
    )
    manifest, engine = variants.active.manifest, variants.active.engine
    app = FastAPI(
        title="Licence-plate reader",
        version=manifest.version,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # its own pages load scripts from a foreign host
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics tells; this looks for it each time
    )
    metrics = Metrics(manifest.variant, manifest.version, engine, error_responses.causes(), shared)
    variants.on_switch = partial(_switched, metrics)
    app.state.lpr = State(
        variants=variants,
        budget=budget,
        shadow=_shadow(settings, variants, metrics),
        metrics=metrics,
        limits=Limits(settings.max_bytes, settings.max_images),
        keys=Keys(_texts(settings.api_keys), _texts(settings.admin_keys), local=settings.local),
        log_plates=settings.log_plates,
        regions=settings.regions,
        fetcher=Fetcher(settings.fetch, settings.max_bytes) if settings.fetch else None,
    )
    app.router.routes.extend([*routes.PLAIN, *open_inference.PLAIN, *compatible.routes(settings.compatible)])
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    app.include_router(redact.router)
    pages.install(app)
    if settings.api_keys or settings.admin_keys:
        auth.document(app.openapi(), reading=bool(settings.api_keys))
    app.add_middleware(Admission, most_bytes=settings.queue_bytes, upload_s=settings.upload_s)
    error_responses.install(app)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Plates", "X-Request-Id", "X-Truncated"],
            max_age=3600,
        )
    app.add_middleware(Access, variants=variants)  # the outermost, so that what is refused is logged too
    return app


def _texts(keys: Iterable[SecretStr]) -> list[str]:
    return [key.get_secret_value() for key in keys]


def _shadow(settings: Settings, variants: Variants, metrics: Metrics) -> Shadow | None:
    if settings.shadow is None:
        return None
    return Shadow(
        variants, settings.shadow, settings.shadow_share, partial(metrics.shadowed, settings.shadow), settings.regions
    )


def _switched(metrics: Metrics, recognizer: Recognizer) -> None:
    manifest = recognizer.manifest
    metrics.activate(manifest.variant, manifest.version, recognizer.engine)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: State = app.state.lpr
    tasks = [asyncio.create_task(state.variants.follow())]
    if state.shadow:
        tasks.append(asyncio.create_task(state.shadow.run()))
    yield
    for task in tasks:
        task.cancel()
    with suppress(TimeoutError):  # a thread may be in a decoder or an engine: the process ends nevertheless
        async with asyncio.timeout(CLOSE_S):
            await state.variants.close()


def _quiet_libraries() -> None:
    """One thread per image is enough for OpenCV, and what a client's bytes made a decoder say belongs in no log."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")
