"""Metrics of the server: one object with its own registry, every series labelled by the variant.

Several processes count in files of one folder (prometheus_client's multiprocess mode), and each of them can tell what
all have counted. A file belongs to a place for a process and not to a process: the one that replaces another one counts
on, so there are never more files than places, and nothing that a killed process counted is lost.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# Seconds. A stage takes a fraction of a millisecond, so the client library's default of 5 ms would be far too coarse.
BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Confidences: most readings are nearly certain, and what is below 0.9 is what alarms look at.
CONFIDENCES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)

# Images computed together; no variant's largest batch is beyond 64.
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PLATES = (0, 1, 2, 4, 8, 16, 32)  # on an image

CONTENT_TYPE = CONTENT_TYPE_LATEST

# The label of failures of requests that chose no variant: refused for their key, their parameters, their address.
NONE: Final = "none"


# What prometheus_client calls its files: kinds of metric, and for gauges how they add up.
KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are private, and are made with names of their own
PREFIX, LOCK = "lpr-metrics-", "lock"  # of the folder in it, and a file that its owner holds locked
NEW_S = 10  # seconds for which a lock may not be held yet


@dataclass(frozen=True)
class Shared:
    """The folder in which several processes count, and the place of one of them."""

    folder: Path
    place: int

    def files(self) -> list[str]:
        """What the process in this place writes."""
        return [str(self.folder / f"{kind}_{self.place}.db") for kind in KINDS]


@contextmanager
def shared_folder(places: int) -> Iterator[Path]:
    """A folder for so many processes, in memory where the system offers that; its files are there from the beginning,
    so that none is read while it is made."""
    root = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for place in range(places):
                for file in Shared(folder, place).files():
                    MmapedDict(file).close()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove the folders of servers all of whose processes were killed at once: nobody holds their locks any more."""
    for lock in root.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open("r+") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > NEW_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


def forget(shared: Shared) -> None:
    """Set the gauges of a process that has ended to 0; its counters stay."""
    for file in shared.files():
        if "gauge" in file:
            found = MmapedDict(file)
            for key, *_ in list(found.read_all_values()):
                found.write_value(key, 0.0, 0.0)
            found.close()


@cache  # two that wrote one file would not know where the other one is writing
def _counting_in(shared: Shared) -> type:
    """prometheus_client's class for values that lie in the files of this place."""
    made: type = values.MultiProcessValue(lambda: shared.place)
    return made


class Metrics:
    """Counts what a server does, by the variant that it did it with."""

    def __init__(
        self, variant: str, version: str, engine: str, causes: Iterable[str], shared: Shared | None = None
    ) -> None:
        """`causes` are the errors that exist: their counters start at 0 instead of appearing with the first one.

        With `shared`, all metrics made in this process from now on are counted there.
        """
        registry = self._told = CollectorRegistry()
        self._causes = tuple(causes)
        if shared:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared.folder)
            values.ValueClass = _counting_in(shared)
            self._told = CollectorRegistry()
            MultiProcessCollector(self._told, str(shared.folder))
            self._told.register(Processes(os.getppid()))
        else:
            ProcessCollector(registry=registry)
        PlatformCollector(registry=self._told)
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
            "lpr_requests_in_flight",
            "Recognize requests in flight.",
            ["backend"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._plates = Counter("lpr_plates_total", "Plates read.", ["backend"], registry=registry)
        self._confidence = Histogram(
            "lpr_confidence",
            "Confidence of the text of a plate, 0 where a crop or a plate that was found has none.",
            ["backend"],
            registry=registry,
            buckets=CONFIDENCES,
        )
        self._plates_per_image = Histogram(
            "lpr_plates_per_image",
            "Plates on an image that could be read.",
            ["backend"],
            registry=registry,
            buckets=PLATES,
        )
        self._batches = Histogram(
            "lpr_batch_images",
            "Images that a thread computed together.",
            ["backend"],
            registry=registry,
            buckets=BATCHES,
        )
        self._inference = Counter(
            "lpr_inference_cpu_seconds_total", "CPU time that inference took.", ["backend"], registry=registry
        )
        self._errors = Counter(
            "lpr_errors_total",
            "Requests, and images among several, that failed, by cause and by the variant that was to read; backend "
            f"is {NONE} where the request failed before it chose one.",
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
            multiprocess_mode="livemax",
        )
        # `labels` looks a series up under a lock and checks its names: a tenth of a request's time on the event loop.
        self._series: Callable[..., Any] = cache(lambda metric, *labels: metric.labels(*labels))
        self._begin: Callable[[str], None] = cache(self._start_at_zero)
        self._active = (variant, version, engine)
        self.activate(variant, version, engine)

    def activate(self, variant: str, version: str, engine: str) -> None:
        """From now on this model is the active one: its series start at 0 instead of appearing when first counted."""
        self._model.labels(*self._active).set(0)
        self._active = (variant, version, engine)
        self._model.labels(*self._active).set(1)
        self._begin(variant)

    def _start_at_zero(self, variant: str) -> None:
        """What a rate is computed of has to be there before it is counted."""
        counted = (self._requests, self._in_flight, self._plates, self._confidence, self._plates_per_image)
        for series in (*counted, self._batches, self._inference):
            series.labels(variant)
        for cause in self._causes:
            self._errors.labels(variant, cause)

    @contextmanager
    def request(self, variant: str | None = None) -> Iterator[None]:
        """Around a request to a variant, by default the active one: counts it as in flight and times it, failed or
        not."""
        variant = variant or self._active[0]
        self._begin(variant)
        in_flight, started = self._series(self._in_flight, variant), time.perf_counter()
        in_flight.inc()
        try:
            yield
        finally:
            in_flight.dec()
            self._series(self._requests, variant).observe(time.perf_counter() - started)

    def read(
        self,
        confidences: Sequence[float],
        plates: Sequence[int],
        stages: dict[str, float],
        variant: str | None = None,
    ) -> None:
        """Record a successful request: the confidence of each text, 0 where none was read, the number of plates of
        each image, and the seconds of each stage."""
        variant = variant or self._active[0]
        self._series(self._plates, variant).inc(sum(confidence > 0 for confidence in confidences))
        for confidence in confidences:
            self._series(self._confidence, variant).observe(confidence)
        for count in plates:
            self._series(self._plates_per_image, variant).observe(count)
        for stage, seconds in stages.items():
            self._series(self._stages, variant, stage).observe(seconds)

    def batch(self, variant: str, images: int, cpu_seconds: float) -> None:
        """Record that a thread computed so many images of a variant together; any thread may call it."""
        self._series(self._batches, variant).observe(images)
        self._series(self._inference, variant).inc(cpu_seconds)

    def failed(self, cause: str, variant: str | None = None) -> None:
        """Count a request that failed because of `cause`, under the same variant as `request` counts it."""
        self._errors.labels(variant or self._active[0], cause).inc()

    def shadowed(self, shadow: str, outcome: str, images: int) -> None:
        """Count images that the variant `shadow` read, or did not get to read, beside the active one."""
        self._shadowed.labels(self._active[0], shadow, outcome).inc(images)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._told)


class Processes(Collector):
    """What ProcessCollector tells, of a process and all its children together."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def collect(self) -> Iterable[Metric]:
        """Sums, but the parent's start and the smallest limit. CPU time of children that have ended is in it."""
        while True:  # a child that ends meanwhile might be counted twice, or not at all
            children = self._children()
            found = [
                metric
                for pid in (*children, self._parent)  # the parent's last: its start is the one that stays
                for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect()
            ]
            waited_for = self._waited_for()
            if self._children() == children:
                break
        together: dict[str, Metric] = {}
        for metric in found:
            (sample,) = metric.samples
            before = together.get(metric.name)
            value = sample.value
            if before and metric.name == "process_max_fds":
                value = min(value, before.samples[0].value)
            elif before and metric.name != "process_start_time_seconds":
                value += before.samples[0].value
            metric.samples[0] = sample._replace(value=value)
            together[metric.name] = metric
        if cpu := together.get("process_cpu_seconds"):
            cpu.samples[0] = cpu.samples[0]._replace(value=cpu.samples[0].value + waited_for)
        return together.values()

    def _children(self) -> list[int]:
        """As proc(5) has it in task/TID/children, which not every kernel offers."""
        try:
            text = Path("/proc", str(self._parent), "task", str(self._parent), "children").read_text()
        except OSError:
            return [os.getpid()]
        return [int(pid) for pid in text.split()]

    def _waited_for(self) -> float:
        """Seconds of CPU time of ended children: cutime and cstime of proc(5)'s stat, the fields 16 and 17."""
        try:
            fields = Path("/proc", str(self._parent), "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
