"""The report: what is measured is kept, and stands in the page, its figure and README."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
from matplotlib import pyplot
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from model_builder import evaluate
from model_builder.__main__ import main
from model_builder.compile import records
from model_builder.measure import (
    blocks,
    contest,
    figures,
    peers,
    report,
    serving,
    tables,
)
from model_builder.measure.parts import Parts
from model_builder.measure.peers import BASELINE, DYNAMIC, MASKED, QUANTIZED, Contestant
from model_builder.train.data import Crops, validation_set
from model_builder.train.labels import write_folder
from service import artifact as contract
from service.artifact import Artifact
from service.backends import load
from service.errors import ArtifactError
from service.host import flags
from tests.support.artifacts import PUBLISHED

STAGES = dict.fromkeys(("decode_ms", "inference_ms", "total_ms"), 0.5)
SCORE = {"exact": 190, "total": 200, "low": 0.91, "high": 0.97}
SETTINGS = (("640x384", 1, 1), ("640x384", 8, 2))
ACCURACY = {"ccpd-crops": SCORE, tables.RENDERED: SCORE, tables.POOLED: SCORE}


def variant(size: int) -> dict[str, object]:
    return {
        "version": "1",
        "accuracy": ACCURACY,
        "serving": {"start_s": 1.25, "resident_bytes": 100_000_000, **STAGES},
        "bytes": size,
        "folder_bytes": size + 1,
        "parameters": 1000,
        "nonzero": 900,
        "multiply_adds": 2_000_000,
    }


def times(milliseconds: float) -> list[dict[str, object]]:
    spread = {"p10": 0.75 * milliseconds, "p95": 1.5 * milliseconds, "p99": 2 * milliseconds, "calls": 300}
    return [
        {"median": milliseconds, **spread, "batch": batch, "threads": threads}
        for threads in report.THREADS
        for batch in report.BATCHES
    ]


def found(**figures: float | None) -> dict[str, Any]:
    """What is measured of the networks of a task."""
    medians = {"finder": 8.0, "finder-fast": 1.5, "OpenVINO fp32": 6.0, "ONNX Runtime int8": 3.0}
    return {
        "times": {
            name: [{"median": by * median, "size": size, "batch": batch} for size, batch, by in SETTINGS]
            for name, median in medians.items()
        },
        "engine": dict.fromkeys(medians, "an engine 1"),
        "left_out": {"OpenVINO bf16": "no such instructions"},
        "bytes": dict.fromkeys(medians, 400_000),
        "ours": ["finder", "finder-fast"],
        "figures": {name: {"rendered": {**SCORE, **figures}, "ccpd-scenes": {**SCORE, **figures}} for name in medians},
    }


@pytest.fixture
def measured() -> dict[str, Any]:
    """A report with every part."""
    speeds = {BASELINE: 4.0, "small": 1.0, "OpenVINO": 2.0, "ONNX Runtime": 3.0, MASKED: 4.1, DYNAMIC: 4.2}
    row = {"ratio": 0.35, "accuracy": 0.5, "parameters": 1000, "nonzero": 650, "bytes": 4000, "compressed_bytes": 2500}
    return {
        "machine": "a CPU",
        "commit": "abcdef0",
        "cores": 2,
        "engines": {"torch": "2.13.0"},
        "sets": {"ccpd-crops": 200, tables.RENDERED: 200},
        "times": {name: times(median) for name, median in speeds.items()},
        "engine": dict.fromkeys(speeds, "an engine 1"),
        "left_out": {"torch.compile fp32": "no compiler"},
        "variants": {
            BASELINE: variant(3_000_000),
            "small": {
                **variant(500_000),
                "parity": {"source": BASELINE, "texts": {tables.RENDERED: 1}, "logits": 1.2e-4},
            },
        },
        "peers": {name: {"accuracy": ACCURACY, "bytes": 2_000_000} for name in ("OpenVINO", "ONNX Runtime")},
        "attempts": {name: {"accuracy": ACCURACY, "bytes": None} for name in (MASKED, DYNAMIC)},
        "recipe": {
            "machine": "another CPU",
            "plates": 2000,
            "unpruned": 0.86,
            "ratios": [0.1, 0.2],
            "sensitivity": {"stem": [0.8, 0.7]},
            "recipe": [{**row, "scope": "layer", "fine_tuning_steps": 600}],
            "stored": {"bytes": 4000, "compressed_bytes": 3700},
        },
        "dynamic": {"changed": 0},
        "ablation": {
            "level": "x86-64-v3",
            "rows": {
                "untuned": {"median": 600.0, "calls": 5, "untuned": []},
                "tuned": {"median": 3.0, "calls": 75, "untuned": ["conv2d9"]},
            },
        },
        "kernels": {
            "small": {
                "level": "x86-64-v4-vnni",
                "limit": 200e9,
                "kernels": [
                    {"kernel": "stem", "us": 100.0, "multiply_adds": 10_000_000},
                    {"kernel": "contexts", "us": 20.0, "multiply_adds": 0},
                ],
            }
        },
        "finding": {"find": found(corners=0.0123, false_alarms=0.25), "refine": found(corners=0.05, false_alarms=None)},
        "notes": ["torch.compile fp32 was left out: no compiler"],
        "measured": {"ablation": "2026-01-02 03:04", "contest, threads 1": "2026-01-03 03:04"},
    }


def test_the_choice_has_a_row_for_each_variant_the_fastest_first(measured):
    head, _, *rows = tables.choice(measured).split("\n\n")[0].splitlines()
    assert head == "| variant | take it for | read of 200 photographs | ms a plate | file, MB | memory, MB |"
    assert rows == [
        "| `small` |  | 95.0 % (91.0 to 97.0) | 1.00 | 0.50 | 100 |",
        f"| `{BASELINE}` | {tables.USE[BASELINE]} | 95.0 % (91.0 to 97.0) | 4.00 | 3.00 | 100 |",
    ]


def test_every_published_variant_has_its_use():
    assert {*tables.USE} == {*contract.readers(PUBLISHED)}


def test_the_page_answers_with_all_that_was_measured(measured):
    text = "\n\n".join([tables.page(measured), tables.finding(measured)])
    assert text.startswith("## Which one should I take?")
    for part in (
        "a CPU (2 CPUs), 2026-01-02 to 2026-01-03, commit abcdef0, with torch 2.13.0",
        "torch.compile fp32 was left out: no compiler",
        "| `small` | `baseline` | 1 of 200 | 1.2e-04 |",
        "| OpenVINO | 1.50 | 2.00 | 3.00 | 4.00 | 0.500 | 1.00 | 2.00 | 2.00 | an engine 1 |",
        "| `small` | 0.50 | 0.50 | 100 | 1.2 | 1,000 | 900 | 2.0 |",
        "In the contest it took 4.10 ms, `baseline` 4.00 ms",
        "| 35% of each layer, 600 steps of training | 50.00 % | 35.0% | 0.00 | 0.00 |",
        "Modules that it changed: 0.",
        "| + tuned | 3.000 | 200.00 | 75 | conv2d9 |",
        "10.0 million take 50 us at least",
        "| stem | 100.0 | 10.00 | 100 | 50% |",
        "| contexts | 20.0 |  |  |  |",
        "| all | 120.0 | 10.00 | 83 | 42% |",
        "|  | rendered (200): found | corners | false alarms | ccpd-scenes (200): found | corners | false alarms |",
        "| `finder-fast` | 95.0 % | 0.012 | 0.250 | 95.0 % | 0.012 | 0.250 |",
        "| OpenVINO fp32 | 6.00 | 2.00 | 12.00 | 2.00 | 0.40 | an engine 1 |",
        "| `finder-fast` | 1.50 | 0.50 | 3.00 | 0.50 | 0.40 | an engine 1 |",
        "|  | rendered (200): right | corners | ccpd-scenes (200): right | corners |",
    ):
        assert part in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_was_not_measured_is_left_away_and_told(measured):
    photographs = "Photographs were not measured in this run."
    for facts in (*measured["variants"].values(), *measured["peers"].values(), *measured["attempts"].values()):
        facts["accuracy"] = {tables.RENDERED: SCORE}
    lacking = {**measured, "recipe": None, "ablation": None, "kernels": {}, "finding": {}, "notes": [photographs]}
    text = tables.page(lacking)
    assert photographs in text
    assert photographs not in tables.readme(lacking, Path("report"), Path())
    assert "Pruning by magnitude" not in text
    assert "each pass of the compiler" not in text
    assert "read of 200 rendered plates" in tables.choice(lacking)


def test_finders_have_a_block_of_their_own_that_stays_where_none_was_measured(measured, tmp_path):
    report.write_finding(tmp_path, measured)
    page = (tmp_path / blocks.PAGE).read_text(encoding="utf-8")
    assert page.startswith(blocks.markers("report-finders")[0])
    assert "## How well, and how fast, are plates found?\n\n`make report-finders` on a CPU (2 CPUs)" in page
    report.write_finding(tmp_path, {**measured, "finding": {}})
    assert (tmp_path / blocks.PAGE).read_text(encoding="utf-8") == page


def test_the_page_is_written_with_its_figure_the_same_bytes_for_the_same_data(measured, tmp_path):
    report.write(tmp_path, measured)
    assert {path.name for path in tmp_path.iterdir()} == {blocks.PAGE, tables.FIGURE}
    first = (tmp_path / tables.FIGURE).read_bytes()
    ElementTree.fromstring(first)  # noqa: S314 - our own figure
    report.write(tmp_path, measured)
    assert (tmp_path / tables.FIGURE).read_bytes() == first


@pytest.fixture
def labels(monkeypatch) -> Callable[[], list[tuple[str, Bbox]]]:
    """The labels of the figure that was drawn last, with their boxes in pixels."""
    drawn: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)

    def labels() -> list[tuple[str, Bbox]]:
        figure = drawn.pop()
        figure.canvas.draw()
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        return [(text.get_text(), text.get_window_extent()) for text in texts]

    return labels


def overlapping(labels: list[tuple[str, Bbox]]) -> list[tuple[str, str]]:
    return [(a, b) for (a, one), (b, other) in combinations(labels, 2) if one.overlaps(other)]


def test_no_label_lies_on_another_and_intervals_are_drawn(measured, labels, tmp_path):
    peers = {f"a peer with a long name {number}": number for number in range(1, 12)}
    for name, number in peers.items():  # some of them side by side in both
        measured["times"][name] = times(2.0 + 0.001 * number)
        measured["engine"][name] = "an engine"
        measured["peers"][name] = {"accuracy": ACCURACY, "bytes": 1}
    report.write(tmp_path, measured)
    shown = labels()
    assert {*peers, *measured["variants"]} <= {text for text, _ in shown}
    assert overlapping(shown) == []
    rates = {
        f"variant {number}": dict.fromkeys(("lpr", "another"), figures.Interval(90, 100, 110)) for number in range(6)
    }
    figures.sustained(tmp_path / "load.svg", rates, "a CPU")
    shown = labels()
    assert {*rates, "lpr", "another"} <= {text for text, _ in shown}
    assert overlapping(shown) == []


def test_an_interval_is_a_line_from_its_low_to_its_high_end(monkeypatch, tmp_path):
    drawn: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    row = figures.Contender("one", True, figures.Interval(1, 1, 3), figures.Interval(0.9, 0.95, 0.97))
    figures.comparison(tmp_path / "x.svg", [row], "a CPU", "read")
    ends = [
        cast(LineCollection, line).get_segments()[0][:, 0].tolist()
        for axes in drawn[0].axes
        for line in axes.collections
    ]
    assert ends == [[1, 3], pytest.approx([90, 97])]


def test_a_block_is_replaced_between_its_markers_only(tmp_path):
    page = tmp_path / "README.md"
    begin, end = blocks.markers("report")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    for text in ("a table", "another"):
        blocks.put(page, "report", text)
    assert page.read_text(encoding="utf-8") == f"before\n{begin}\n\nanother\n\n{end}\nafter\n"


def test_a_page_without_the_block_gets_it_at_its_end(tmp_path):
    page = tmp_path / "README.md"
    for command in ("report", "loadtest", "report"):
        blocks.put(page, command, f"of {command}")
    words = page.read_text(encoding="utf-8").split()
    assert [words.count(word) for word in ("report", "loadtest")] == [1, 1]
    assert words.index("report") < words.index("loadtest")


def test_a_readme_without_markers_is_refused_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "README.md").write_text("no markers", encoding="utf-8")
    assert main(["report", "--readme", str(tmp_path / "README.md"), "--work", str(tmp_path / "work")]) == 1
    assert "must hold the lines" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_part_is_measured_again_only_for_another_subject(tmp_path):
    measurements = iter(range(3))

    def get(subject: object) -> object:
        return Parts(tmp_path).get("Some part", {"version": subject}, lambda: next(measurements))

    assert [get("a"), get("a"), get("b"), get("b"), get("a")] == [0, 0, 1, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["some-part.json"]


def test_a_part_that_is_stopped_leaves_no_file(tmp_path):
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path).get("part", {}, stopped)
    assert not [*tmp_path.iterdir()]


def test_accuracies_pool_the_photographs(tiny: Artifact):
    crops = validation_set(4)
    wrong = Crops(crops.images, ["京A99999"] * 4)
    right = Crops(crops.images[:2], ["京A12345"] * 2)  # what the tiny network reads on everything
    sets = {tables.RENDERED: wrong, "x": right, "y": wrong}
    scores = report.accuracies(tiny, Contestant("tiny", "artifact", tiny.folder), sets)
    assert (scores["x"]["exact"], scores["y"]["exact"]) == (2, 0)
    assert (scores[tables.POOLED]["exact"], scores[tables.POOLED]["total"]) == (2, 6)


def test_a_server_that_does_not_start_is_told(tmp_path):
    with pytest.raises(ArtifactError, match="server of missing stopped"), serving.served("missing", tmp_path, 1):
        pass


@pytest.mark.slow
def test_parameters_that_are_not_0_are_counted(small_variants):
    baseline, onnx = (contract.find(small_variants, name) for name in (BASELINE, QUANTIZED))
    zeros = -(-baseline.manifest.output.shape[-1] * (8 + 10 + 4 + 6 + 8 + 10) // 10)
    found = report.nonzero(baseline)
    assert baseline.manifest.measured.parameters - found >= zeros  # batch normalization's biases begin at 0, too
    assert onnx.manifest.measured.parameters - report.nonzero(onnx) >= zeros


@pytest.mark.slow
def test_a_report_is_measured_written_and_kept(small_variants, tmp_path, monkeypatch, capsys):
    """All of it on a small network, with one peer and four plates."""
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / BASELINE).symlink_to(small_variants / BASELINE)
    write_folder(tmp_path / "real" / "own", validation_set(2))
    write_folder(tmp_path / "four", validation_set(4))
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(blocks.markers("report")), encoding="utf-8")
    monkeypatch.setattr(evaluate, "SHIPPED", tmp_path / "four")
    monkeypatch.setattr(serving, "_STARTS", 1)
    monkeypatch.setattr(report, "THREADS", (1,))
    monkeypatch.setattr(report, "BATCHES", (1, 2))
    monkeypatch.setattr(records, "RECORDS", tmp_path)  # without records there is no ablation, which takes minutes
    all_peers = peers.peers
    monkeypatch.setattr(peers, "peers", lambda *folders: all_peers(*folders)[:1])
    monkeypatch.setattr(peers, "attempts", lambda _: [Contestant(DYNAMIC, "artifact", tmp_path / "missing")])
    options = ["--artifacts", tmp_path / "artifacts", "--real", tmp_path / "real", "--out", tmp_path / "out"]
    options += ["--work", tmp_path / "work", "--readme", readme, "--rounds", 1, "--study", tmp_path / "none"]
    assert main(["report", *map(str, options)]) == 0
    found = report.kept(tmp_path / "work")
    assert found["variants"].keys() == {BASELINE}
    assert found["peers"].keys() == {"ONNX Runtime fp32"}
    baseline = found["variants"][BASELINE]
    assert baseline["accuracy"]["own"]["total"] == baseline["accuracy"][tables.POOLED]["total"] == 2
    assert baseline["serving"]["start_s"] > 0
    assert baseline["serving"]["inference_ms"] > 0
    assert baseline["serving"]["resident_bytes"] > 10e6
    assert baseline["bytes"] < baseline["folder_bytes"]
    assert DYNAMIC in found["left_out"]
    assert any(note.startswith("Pruning by magnitude was not measured") for note in found["notes"])
    assert any(note.startswith("The compiler's ablation was not measured") for note in found["notes"])
    assert any(note.startswith("`finder` was not measured") for note in found["notes"])
    assert f"| `baseline` | {tables.USE[BASELINE]} | 0.0 % (" in readme.read_text(encoding="utf-8")
    assert "](out/comparison.svg)" in readme.read_text(encoding="utf-8")
    assert "## Which one should I take?" in (tmp_path / "out" / blocks.PAGE).read_text(encoding="utf-8")

    def again(*_: object, **__: object) -> contest.Outcome:
        raise ValueError("measured again")

    monkeypatch.setattr(report, "contest", again)
    assert main(["report", *map(str, options)]) == 0  # every part was kept
    (tmp_path / "out" / blocks.PAGE).unlink()
    (tmp_path / "artifacts" / BASELINE).unlink()
    assert main(["report", "--redraw", *map(str, options)]) == 0  # without measuring
    assert "## Which one should I take?" in (tmp_path / "out" / blocks.PAGE).read_text(encoding="utf-8")
    (tmp_path / "artifacts" / BASELINE).symlink_to(small_variants / BASELINE)
    capsys.readouterr()
    assert main(["report", "--fresh", *map(str, options)]) == 1
    assert "measured again" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in flags(), reason="the library needs AVX2")
def test_a_stage_of_the_compiler_is_an_artifact_that_computes_what_its_source_does(small_variants, tmp_path):
    baseline = contract.find(small_variants, BASELINE)
    assert report.compile_stages(baseline, "x86-64-v3", tmp_path, ["untuned"]) == {"untuned": {"untuned": ()}}
    stage = contract.read(tmp_path / "untuned")
    assert stage.manifest.backend == "tvm"
    contract.check_probe(load(stage), stage)
    found = report.parity(stage, baseline, {"own": validation_set(4)})
    assert found["source"] == BASELINE
    assert found["texts"] == {"own": 0}
    assert 0 < found["logits"] < 1e-3
    assert report.compiled_from(baseline) is None
