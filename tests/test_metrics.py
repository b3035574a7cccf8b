"""One registry per server, every series labelled by the variant, buckets fine enough for this service."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import BUCKETS, Metrics, Shared, forget, shared_folder


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Value by name and label values, these in the order of their labels' names."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (s.name, *(s.labels[label] for label in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("tiny", "1", "torch 0", ["no_image", "busy"])


def test_every_series_of_ours_starts_at_zero_with_its_backend(metrics):
    found = samples(metrics)
    assert found["lpr_errors_total", "tiny", "busy"] == found["lpr_plates_total", "tiny"] == 0
    assert found["lpr_model_info", "tiny", "torch 0", "1"] == 1
    assert all(key[1] == "tiny" for key in found if key[0].startswith("lpr_"))


def test_a_request_is_in_flight_and_then_timed(metrics):
    with metrics.request():
        assert samples(metrics)["lpr_requests_in_flight", "tiny"] == 1
    found = samples(metrics)
    assert found["lpr_requests_in_flight", "tiny"] == 0
    assert found["lpr_request_seconds_count", "tiny"] == 1


def test_a_failing_request_is_timed_too(metrics):
    with pytest.raises(KeyError), metrics.request():
        raise KeyError
    assert samples(metrics)["lpr_request_seconds_count", "tiny"] == 1
    assert samples(metrics)["lpr_requests_in_flight", "tiny"] == 0


def test_plates_stages_and_errors_are_counted(metrics):
    metrics.read([0.97, 0, 0.3], [0, 1, 2, 40], {"decode": 0.0003, "inference": 0.004})
    metrics.failed("no_image")
    metrics.batch("tiny", 5, 0.004)
    found = samples(metrics)
    assert found["lpr_plates_total", "tiny"] == 2
    below = [found["lpr_confidence_bucket", "tiny", le] for le in ("0.05", "0.25", "0.5", "0.9", "0.99", "+Inf")]
    assert below == [1, 1, 2, 2, 3, 3]
    per_image = [found["lpr_plates_per_image_bucket", "tiny", le] for le in ("0.0", "1.0", "2.0", "32.0", "+Inf")]
    assert per_image == [1, 2, 3, 3, 4]
    assert found["lpr_stage_seconds_sum", "tiny", "inference"] == 0.004
    assert found["lpr_stage_seconds_bucket", "tiny", "0.0005", "decode"] == 1
    assert found["lpr_stage_seconds_bucket", "tiny", "0.00025", "decode"] == 0
    assert found["lpr_errors_total", "tiny", "no_image"] == 1
    assert [found["lpr_batch_images_bucket", "tiny", le] for le in ("4.0", "8.0")] == [0, 1]
    assert found["lpr_inference_cpu_seconds_total", "tiny"] == 0.004


def test_another_model_becomes_the_active_one(metrics):
    metrics.activate("other", "2", "torch 0")
    with metrics.request(), metrics.request("tiny"):
        pass
    metrics.read([0.9], [1], {"decode": 0.001}, "tiny")
    metrics.failed("busy")
    found = samples(metrics)
    assert (found["lpr_model_info", "tiny", "torch 0", "1"], found["lpr_model_info", "other", "torch 0", "2"]) == (0, 1)
    assert found["lpr_request_seconds_count", "tiny"] == found["lpr_request_seconds_count", "other"] == 1
    assert (found["lpr_plates_total", "tiny"], found["lpr_plates_total", "other"]) == (1, 0)
    assert (found["lpr_errors_total", "other", "busy"], found["lpr_errors_total", "other", "no_image"]) == (1, 0)


def test_buckets_begin_at_a_quarter_of_a_millisecond():
    assert BUCKETS[0] == 0.00025
    assert list(BUCKETS) == sorted(BUCKETS)


def test_two_servers_in_one_process_do_not_share_counts(metrics):
    metrics.failed("busy")
    assert samples(Metrics("tiny", "1", "torch 0", ["busy"]))["lpr_errors_total", "tiny", "busy"] == 0


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which two processes count; this one stands in for both."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    with shared_folder(2) as folder:
        yield folder
    assert not folder.exists()


def place(folder: Path, number: int) -> Metrics:
    return Metrics("tiny", "1", "torch 0", ["no_image", "busy"], Shared(folder, number))


def test_what_processes_count_adds_up_whichever_is_asked(folder):
    one, two = place(folder, 0), place(folder, 1)
    one.read([0.97, 0], [1, 0], {"decode": 0.0003})
    two.read([0.5], [1], {"decode": 0.004})
    two.failed("busy")
    with one.request(), two.request():
        assert samples(one)["lpr_requests_in_flight", "tiny"] == samples(two)["lpr_requests_in_flight", "tiny"] == 2
    for found in (samples(one), samples(two)):
        assert found["lpr_plates_total", "tiny"] == 2
        assert found["lpr_stage_seconds_count", "tiny", "decode"] == 2
        assert found["lpr_stage_seconds_sum", "tiny", "decode"] == pytest.approx(0.0043)
        assert found["lpr_request_seconds_count", "tiny"] == 2
        assert (found["lpr_errors_total", "tiny", "busy"], found["lpr_errors_total", "tiny", "no_image"]) == (1, 0)
        assert (found["lpr_requests_in_flight", "tiny"], found["lpr_model_info", "tiny", "torch 0", "1"]) == (0, 1)


def test_a_place_keeps_its_counts_and_not_its_gauges_and_who_follows_counts_on(folder):
    one, two = place(folder, 0), place(folder, 1)
    one.failed("busy")
    with one.request():  # which never ends, for all that the others can see
        forget(Shared(folder, 0))
        assert samples(two)["lpr_requests_in_flight", "tiny"] == 0
        assert samples(two)["lpr_errors_total", "tiny", "busy"] == 1
        files = sorted(folder.iterdir())
        place(folder, 0).failed("busy")
        assert samples(two)["lpr_errors_total", "tiny", "busy"] == 2
        assert sorted(folder.iterdir()) == files


def test_a_folder_that_killed_processes_left_is_removed_by_the_next_and_no_other_one(tmp_path, monkeypatch):
    monkeypatch.setattr("service.metrics.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("service.metrics.NEW_S", -1)
    with shared_folder(1) as first, shared_folder(1) as second:
        assert first.is_dir()
        left = Path(shutil.copytree(second, tmp_path / "lpr-metrics-left"))  # nobody has locked the copy
        with shared_folder(1):
            assert not left.exists()
        assert first.is_dir()
    assert list(tmp_path.iterdir()) == []
