"""The deployment for Ray Serve, run for real."""

import httpx
import pytest
import ray
from ray import serve

from model_builder.measure.load.servers import free_port
from service.reader import Reader
from tests.support.photographed import with_location

pytestmark = pytest.mark.slow


def test_ray_serve_answers_as_the_reader():
    from service.bulk.endpoint import app

    port = free_port()
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        serve.start(http_options={"port": port})
        serve.run(app)
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=with_location(), timeout=60).json()
        url, said = f"http://127.0.0.1:{port}/", {"Content-Type": "application/x-www-form-urlencoded"}
        as_curl = httpx.post(url, content=with_location(), headers=said, timeout=60).json()
        form = httpx.post(url, files={"image": ("a.jpg", with_location())}, timeout=60).json()
        encoded = httpx.post(url, json={"images": []}, timeout=60).json()
        broken = httpx.post(url, content=with_location()[:20], timeout=60).json()
    finally:
        serve.shutdown()
        ray.shutdown()
    with Reader() as reader:
        expected = [plate.text for plate in reader.read(with_location())]
    assert [plate["text"] for plate in answer["plates"]] == expected
    assert answer["error"] is None
    assert as_curl == answer
    for refused in (form, encoded):
        assert refused["plates"] == []
        assert "send the image's file as the body, as curl --data-binary @IMAGE does" in refused["error"]
    assert broken["plates"] == []
    assert "damaged or was cut off" in broken["error"]
