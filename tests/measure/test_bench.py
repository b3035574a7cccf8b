"""The benchmarks that measure what is around the network: they run on what the service runs on."""

from pathlib import Path

from model_builder.measure import bench
from model_builder.train.data import validation_set
from model_builder.train.labels import write_folder
from service.artifact import Artifact


def test_decoding_and_reading_take_time(tiny: Artifact, tmp_path: Path):
    write_folder(tmp_path, validation_set(3))
    assert bench.decoding(tmp_path / "images").keys() == {"OpenCV", "simplejpeg"}
    assert all(microseconds > 0 for microseconds in bench.decoding(tmp_path / "images").values())
    median, p95 = bench.reading(tiny, tmp_path / "images")
    assert 0 < median <= p95
