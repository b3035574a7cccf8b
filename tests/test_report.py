"""The report: what is measured stands in the table, the figures and README."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import encode

from model_builder import figures, report
from model_builder.data import Crops, validation_set
from service.artifact import Artifact

STAGES = dict.fromkeys((*figures._STAGES, "total_ms"), 0.5)


def entry(exact: int, size: int) -> dict[str, object]:
    score = {"exact": exact, "total": 200, "low": 0.1, "high": 0.9}
    return {
        "version": "1",
        "accuracy": {"rendered": score, "real, pooled": score},
        "serving": {"start_s": 1.25, "resident_bytes": 100_000_000, **STAGES},
        "bytes": size,
        "parameters": 10,
        "multiply_adds": 100,
    }


def times(milliseconds: float) -> list[dict[str, object]]:
    return [
        {"median": milliseconds, "p95": milliseconds, "p99": 2 * milliseconds, "batch": batch, "threads": threads}
        for batch in report.BATCHES
        for threads in report.THREADS
    ]


@pytest.fixture
def measured() -> dict[str, object]:
    return {
        "machine": "a CPU",
        "times": {"baseline": times(4.0), "small": times(1.0), "OpenVINO": times(2.0)},
        "variants": {"baseline": entry(190, 3_000_000), "small": entry(189, 500_000)},
        "peers": {"OpenVINO": {"bytes": 2_000_000}},
    }


def test_the_table_has_a_row_for_each_variant_and_peer(measured):
    head, _, baseline, small, peer = report.table(measured).splitlines()
    assert head.startswith("| variant | rendered | real, pooled | ms | of baseline |")
    assert baseline.startswith("| `baseline` | 95.0 % (190/200) | 95.0 % (190/200) | 4.00 | 1.000 | 8.00 |")
    assert "| 1.00 | 0.250 | 2.00 |" in small
    assert small.endswith("| 0.50 | 1.2 | 100 |")
    assert peer.startswith("| OpenVINO |  |  | 2.00 | 0.500 |")
    assert len({line.count("|") for line in (head, baseline, small, peer)}) == 1


def test_readme_is_changed_between_its_markers_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report._BEGIN}\nold\n{report._END}\nafter\n", encoding="utf-8")
    for text in ("a table", "another"):
        report.into_readme(readme, text)
    assert readme.read_text(encoding="utf-8") == f"before\n{report._BEGIN}\nanother\n{report._END}\nafter\n"
    readme.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.into_readme(readme, "text")


def test_figures_are_drawn_and_the_same_each_time(measured, tmp_path):
    study = {"ratios": [0.1, 0.2], "unpruned": 0.9, "sensitivity": {"stem": [0.8, 0.7]}}
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        figures.pareto(folder / "pareto.svg", {"one": (1.0, 90, 1e6), "two": (2.0, 91, 2e6)}, "a CPU", "real plates")
        figures.sensitivity(folder / "sensitivity.svg", study)
        figures.stages(folder / "stages.svg", measured["variants"])
        figures.ablation(folder / "ablation.svg", {"untuned": 100.0, "tuned": 1.0})
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert len(drawn) == 4
    for name, content in drawn.items():
        ElementTree.fromstring(content)
        assert content == (tmp_path / "b" / name).read_bytes()


def test_the_front_holds_what_nothing_beats_in_both():
    assert figures._front([(3.0, 95), (1.0, 90), (2.0, 89), (2.0, 93), (4.0, 95)]) == [(1.0, 90), (2.0, 93), (3.0, 95)]


def test_accuracies_pool_the_real_sets(tiny: Artifact):
    crops = validation_set(4)
    wrong = Crops(crops.images, ["京A99999"] * 4)
    right = Crops(crops.images[:2], ["京A12345"] * 2)  # what the tiny network reads on everything
    scores = report.accuracies(tiny, {"rendered": wrong, "x": right, "y": wrong})
    assert (scores["x"].exact, scores["y"].exact) == (2, 0)
    assert (scores["real, pooled"].exact, scores["real, pooled"].total) == (2, 6)


def test_a_server_process_is_timed_and_weighed(artifacts: Path):
    figures = report.serving("tiny", artifacts, encode(".png"))
    assert figures["start_s"] > 0
    assert figures["resident_bytes"] > 10e6
    assert figures["inference_ms"] > 0
    json.dumps(figures)


def test_a_server_that_does_not_start_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="server of missing stopped"), report.served("missing", tmp_path, 1):
        pass
