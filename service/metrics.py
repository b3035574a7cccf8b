"""What /metrics says: one object with its own registry, every series labelled by the backend variant."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

# Seconds. A stage takes a fraction of a millisecond, so the client library's default of 5 ms would be far too coarse.
BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Confidences: most readings are nearly certain, and what is below 0.9 is what alarms look at.
CONFIDENCES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counts what a server does, by the variant that it did it with."""

    def __init__(self, backend: str, version: str, engine: str, causes: Iterable[str]) -> None:
        """`causes` are the errors that exist: their counters start at 0 instead of appearing with the first one."""
        self._registry = registry = CollectorRegistry()
        self._causes = tuple(causes)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Histogram(
            "lpr_request_seconds",
            "Time of a recognize request, its body's arrival included.",
            ["backend"],
            registry=registry,
            buckets=BUCKETS,
        )
        self._stages = Histogram(
            "lpr_stage_seconds",
            "Time per stage of a request.",
            ["backend", "stage"],
            registry=registry,
            buckets=BUCKETS,
        )
        self._in_flight = Gauge(
            "lpr_requests_in_flight", "Recognize requests in flight.", ["backend"], registry=registry
        )
        self._plates = Counter("lpr_plates_total", "Plates read.", ["backend"], registry=registry)
        self._confidence = Histogram(
            "lpr_confidence",
            "Confidence of the reading of an image, 0 where none was read.",
            ["backend"],
            registry=registry,
            buckets=CONFIDENCES,
        )
        self._errors = Counter(
            "lpr_errors_total",
            "Requests, and images among several, that failed, by cause.",
            ["backend", "cause"],
            registry=registry,
        )
        self._shadowed = Counter(
            "lpr_shadow_images_total",
            "Images that a shadow read too, by whether it agreed with the backend.",
            ["backend", "shadow", "outcome"],
            registry=registry,
        )
        self._model = Gauge(
            "lpr_model_info",
            "1 for the active model, 0 for those before it.",
            ["backend", "version", "engine"],
            registry=registry,
        )
        self._active = (backend, version, engine)
        self.activate(backend, version, engine)

    def activate(self, backend: str, version: str, engine: str) -> None:
        """From now on this model is the active one: its series start at 0 instead of appearing when first counted."""
        self._model.labels(*self._active).set(0)
        self._active = (backend, version, engine)
        self._model.labels(*self._active).set(1)
        for series in (self._requests, self._in_flight, self._plates, self._confidence):
            series.labels(backend)
        for cause in self._causes:
            self._errors.labels(backend, cause)

    @contextmanager
    def request(self, backend: str | None = None) -> Iterator[None]:
        """Around a request to a variant, by default the active one: counts it as in flight and times it, failed or
        not."""
        backend = backend or self._active[0]
        with self._in_flight.labels(backend).track_inprogress(), self._requests.labels(backend).time():
            yield

    def read(self, confidences: Sequence[float], stages: dict[str, float], backend: str | None = None) -> None:
        """Record a successful request: the confidence of each image's reading, 0 where none was read, and the seconds
        of each stage."""
        backend = backend or self._active[0]
        self._plates.labels(backend).inc(sum(confidence > 0 for confidence in confidences))
        for confidence in confidences:
            self._confidence.labels(backend).observe(confidence)
        for stage, seconds in stages.items():
            self._stages.labels(backend, stage).observe(seconds)

    def failed(self, cause: str) -> None:
        """Count a request that failed because of `cause`."""
        self._errors.labels(self._active[0], cause).inc()

    def shadowed(self, shadow: str, outcome: str, images: int) -> None:
        """Count images that the variant `shadow` read, or did not get to read, beside the active one."""
        self._shadowed.labels(self._active[0], shadow, outcome).inc(images)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
