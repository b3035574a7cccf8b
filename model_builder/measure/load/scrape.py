"""What a server's /metrics say of the time between two scrapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]
Samples = Mapping[Key, float]

REQUESTS = "lpr_request_seconds"
BATCHES = ("lpr_batch_images", "bentoml_service_adaptive_batch_size")  # by their servers; others don't tell
STAGES = "lpr_stage_seconds"


@dataclass(frozen=True)
class Distribution:
    """A histogram between two scrapes: `count` observations, their mean, and how many lie below each upper bound."""

    count: float
    mean: float
    buckets: tuple[tuple[float, float], ...]

    def quantile(self, share: float) -> float:
        """As Prometheus' histogram_quantile: linear within a bucket; NaN without observations."""
        if not self.count:
            return math.nan
        rank, below, lower = share * self.count, 0.0, 0.0
        for bound, total in self.buckets:
            if total >= rank:
                if math.isinf(bound):
                    return lower
                return lower + (bound - lower) * (rank - below) / (total - below) if total > below else bound
            lower, below = bound, total
        return lower


@dataclass(frozen=True)
class Told:
    """What the server told of one load; None where it has no such metric. Times in milliseconds."""

    requests: int | None
    mean: float | None
    p50: float | None
    p99: float | None
    queue_p99: float | None
    batch: float | None
    batch_max: float | None


def scrape(url: str) -> Samples:
    """All samples of a server, by name and labels; none where it has no metrics."""
    answer = httpx.get(f"{url}/metrics", timeout=10, follow_redirects=True)
    if answer.status_code != 200 or not answer.headers["content-type"].startswith("text/plain"):
        return {}
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def between(before: Samples, after: Samples) -> Told:
    """The difference of two scrapes."""
    requests = distribution(before, after, REQUESTS)
    waits = distribution(before, after, STAGES, stage="queue")
    batches = next((found for name in BATCHES if (found := distribution(before, after, name))), None)
    return Told(
        requests=None if requests is None else round(requests.count),
        mean=None if requests is None else 1e3 * requests.mean,
        p50=None if requests is None else 1e3 * requests.quantile(0.5),
        p99=None if requests is None else 1e3 * requests.quantile(0.99),
        queue_p99=None if waits is None else 1e3 * waits.quantile(0.99),
        batch=None if batches is None else batches.mean,
        batch_max=None if batches is None else batches.quantile(1),
    )


def distribution(before: Samples, after: Samples, name: str, **only: str) -> Distribution | None:
    """What a histogram observed between two scrapes, over all labels but `only`; None where there is none."""
    counts: dict[float, float] = {}
    total = 0.0
    for (sample, labels), value in after.items():
        if not only.items() <= dict(labels).items():
            continue
        grown = value - before.get((sample, labels), 0)
        if sample == f"{name}_bucket":
            bound = float(dict(labels)["le"])
            counts[bound] = counts.get(bound, 0) + grown
        elif sample == f"{name}_sum":
            total += grown
    if not counts:
        return None
    buckets = tuple(sorted(counts.items()))
    count = buckets[-1][1]
    return Distribution(count, total / count if count else math.nan, buckets)
