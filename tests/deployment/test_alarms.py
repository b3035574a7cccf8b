"""Every alarm is raised by real requests to a real server, for the variant that they chose and for no other.

What the server counts in a moment of trouble is read from /metrics and repeated every minute of some hours, in series
for `promtool test rules`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from service import backends
from service.artifact import Artifact
from service.backends import Backend
from service.pipeline.registry import Variants
from service.settings import Settings
from tests.support.answers import JPEG
from tests.support.images import encode
from tests.support.prometheus import RULES, promtool
from tests.support.servers import running

pytestmark = pytest.mark.slow

HOUR = 60  # minutes
DAY = 24 * HOUR
QUEUE = 8
ONCE = httpx.Limits(max_keepalive_connections=0)  # uvicorn closes a connection after a fault
USED = {  # by the rules
    "lpr_request_seconds_count",
    "lpr_errors_total",
    "lpr_stage_seconds_bucket",
    "lpr_confidence_bucket",
    "lpr_confidence_count",
}

Logits = NDArray[np.float32]
Mood = Callable[[Logits], Logits]
Phase = tuple[Counter[str], int]  # what is counted in each of so many minutes


class Trouble:
    """A server whose variant `other` can be put into a mood, and a client of it."""

    def __init__(self) -> None:
        self.mood: Mood = lambda logits: logits
        self.client = httpx.Client()

    def moody(self, engine: Backend) -> Backend:
        """The same engine, in the mood of the moment."""
        infer = engine.infer
        engine.infer = lambda batch: self.mood(infer(batch))  # type: ignore[method-assign]
        return engine

    def post(self, variant: str) -> int:
        """Have a variant read an image; returns the status."""
        given = {"variant": variant}
        return self.client.post("/recognize", params=given, content=encode(), headers=JPEG).status_code

    def counts(self) -> Counter[str]:
        """What the server has counted, by series."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name in USED:
                    labels = {"job": "lpr", "instance": "a:8000", **sample.labels}
                    told = ",".join(f'{label}="{value}"' for label, value in labels.items())
                    found[f"{sample.name}{{{told}}}"] = int(sample.value)
        return found

    def during(self, act: Callable[[], object], mood: Mood = lambda logits: logits) -> Counter[str]:
        """What is counted while `other` is in a mood and `tiny` reads twenty images well."""
        before = self.counts()
        assert [self.post("tiny") for _ in range(20)] == [200] * 20
        self.mood = mood
        try:
            act()
        finally:
            self.mood = lambda logits: logits
        after = self.counts()
        return Counter({series: count - before[series] for series, count in after.items()})

    def together(self, requests: int) -> list[int]:
        """The statuses of so many requests at once."""
        with ThreadPoolExecutor(requests) as pool:
            return list(pool.map(self.post, ["other"] * requests))


@pytest.fixture(scope="module")
def trouble(originals: Path) -> Iterator[Trouble]:
    trouble, load = Trouble(), backends.load

    def loaded(artifact: Artifact) -> Backend:
        engine = load(artifact)
        return trouble.moody(engine) if artifact.manifest.variant == "other" else engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "load", loaded)
        settings = Settings(variant="tiny", artifacts=originals, threads=1, max_images=1, queue=QUEUE)
        with running(settings) as url, httpx.Client(base_url=url, timeout=60, limits=ONCE) as trouble.client:
            assert trouble.post("other") == 200  # it is loaded from here on
            yield trouble


def groups() -> list[dict[str, Any]]:
    """The groups of rules."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return found


def check(folder: Path, alarm: str, backend: str, *phases: Phase, up: str = "1x2000", step: int = 1) -> None:
    """Have promtool check that in the end the alarm is on for this variant alone, and none for `tiny`."""
    series, at = {name: list[str]() for counts, _ in phases for name in counts}, Counter[str]()
    for counts, minutes in phases:
        for name, values in series.items():
            values.append(f"{at[name]}+{counts[name] * step}x{minutes // step - 1}")
            at[name] += counts[name] * minutes
    given = [{"series": name, "values": " ".join(values)} for name, values in series.items()]
    given.append({"series": 'up{job="lpr",instance="a:8000"}', "values": up})
    labels = f'{{alertname="{alarm}"' + (f', backend="{backend}"}}' if backend else "}")
    firing = f'count by (alertname, backend) (ALERTS{{alertstate="firing", alertname="{alarm}"}})'
    asked = {firing: [{"labels": labels, "value": 1}] if alarm else [], 'ALERTS{backend="tiny"}': []}
    if not alarm:
        asked["ALERTS"] = []
    end = f"{sum(minutes for _, minutes in phases) - step}m"
    tests = [{"expr": expression, "eval_time": end, "exp_samples": samples} for expression, samples in asked.items()]
    test = {"interval": f"{step}m", "input_series": given, "promql_expr_test": tests}
    file = folder / "alarms.yml"
    # promtool evaluates the groups in a random order unless told. An alarm that came before its recorded share would
    # see the one of a step before, which is too old for it where a step is over five minutes.
    order = [group["name"] for group in groups()]
    whole = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{step}m",
        "group_eval_order": order,
        "tests": [test],
    }
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    promtool("test", "rules", file)


def well(trouble: Trouble) -> Counter[str]:
    """What is counted while both variants read well."""
    return trouble.during(lambda: trouble.together(5))


def unsure(logits: Logits) -> Logits:
    """Every character is as likely as any other, but for the ones that are read."""
    return (logits / 20).astype(np.float32)


def slowly(seconds: float) -> Mood:
    def mood(logits: Logits) -> Logits:
        time.sleep(seconds)
        return logits

    return mood


def broken(logits: Logits) -> Logits:
    raise RuntimeError("the engine is broken")


def test_a_healthy_server_raises_none(trouble, tmp_path):
    # How long requests wait for the engine tells how loaded the machine is that runs this test.
    counts = Counter({series: count for series, count in well(trouble).items() if 'stage="queue"' not in series})
    check(tmp_path, "", "", (counts, 2 * HOUR))


def test_a_server_that_is_gone(trouble, tmp_path, artifacts):
    """Prometheus sets `up` to whether a scrape was answered."""

    def up(url: str) -> int:
        with suppress(httpx.ConnectError):
            return int(httpx.get(f"{url}/metrics").status_code == 200)
        return 0

    with running(Settings(variant="tiny", artifacts=artifacts, threads=1)) as url:
        there = up(url)
    check(tmp_path, "LprDown", "", (well(trouble), 30), up=f"{there}x20 {up(url)}x10")


def test_faults_of_the_variant_that_was_chosen(trouble, tmp_path):
    counts = trouble.during(lambda: trouble.together(5), broken)
    check(tmp_path, "LprFaults", "other", (counts, HOUR))


def test_faults_before_a_variant_is_chosen(trouble, tmp_path, monkeypatch):
    async def fails(self: Variants) -> bytes:
        raise RuntimeError("the listing is broken")

    monkeypatch.setattr(Variants, "listing", fails)

    def ask() -> None:
        assert [trouble.client.get("/variants").status_code for _ in range(3)] == [500] * 3
        assert trouble.client.post("/recognize", params={"top_k": "many"}).status_code == 422

    trouble.during(ask)  # series begin with their first count
    check(tmp_path, "LprFaults", "none", (trouble.during(ask), HOUR))


def test_refusals_for_want_of_room(trouble, tmp_path):
    counts = trouble.during(lambda: trouble.together(4 * QUEUE), slowly(0.3))
    assert counts['lpr_errors_total{job="lpr",instance="a:8000",backend="other",cause="busy"}'] > QUEUE
    check(tmp_path, "LprOverloaded", "other", (counts, HOUR))


def test_answers_that_take_long(trouble, tmp_path):
    check(tmp_path, "LprSlow", "other", (trouble.during(lambda: trouble.post("other"), slowly(0.4)), HOUR))


def test_waiting_for_the_engine(trouble, tmp_path):
    counts = trouble.during(lambda: trouble.together(QUEUE), slowly(0.2))
    check(tmp_path, "LprQueueing", "other", (counts, HOUR))


def test_little_confidence(trouble, tmp_path):
    check(tmp_path, "LprLowConfidence", "other", (trouble.during(lambda: trouble.together(5), unsure), 2 * HOUR))


def test_less_confidence_than_yesterday(trouble, tmp_path):
    low = trouble.during(lambda: trouble.together(5), unsure)
    check(tmp_path, "LprConfidenceDrift", "other", (well(trouble), DAY + HOUR), (low, 2 * HOUR), step=15)


def test_every_alarm_is_driven_here():
    rules = [rule for group in groups() for rule in group["rules"]]
    here = Path(__file__).read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules if "alert" in rule and f'"{rule["alert"]}"' not in here] == []
