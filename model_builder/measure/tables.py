"""A report in Markdown: README's table, and all of them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_builder.measure.peers import BASELINE, DYNAMIC, MASKED

Report = Mapping[str, Any]

POOLED = "photographs"  # all real sets together
RENDERED = "plates-500"


def time_of(report: Report, name: str, batch: int = 1, threads: int = 1) -> Mapping[str, Any]:
    """Times of a variant or another contestant at a batch size and number of threads."""
    found: Mapping[str, Any] = next(t for t in report["times"][name] if (t["batch"], t["threads"]) == (batch, threads))
    return found


def readme(report: Report, folder: Path, root: Path) -> str:
    """What README shows: the comparison, its figure and the machine; links are relative to `root`."""
    place = os.path.relpath(folder, root)
    return "\n\n".join(
        [
            _circumstances(report),
            comparison(report),
            f"![Accuracy against latency]({place}/pareto.svg)",
            *report["notes"],
            f"All figures, per set, batch size and thread, are in [{place}/report.md]({place}/report.md).",
        ]
    )


def document(report: Report) -> str:
    """Every table with what it means."""
    parts = [
        "# Report",
        _circumstances(report),
        *report["notes"],
        "## Comparison",
        comparison(report),
        "![Accuracy against latency](pareto.svg)",
        "## Accuracy",
        "Exact match of the whole text, one crop at a time, with the 95 % interval (Wilson). Peers compute the weights "
        "of `baseline`, those of int8 the weights of `quantized`.",
        _accuracy(report),
        *_parity(report),
        "## Latency",
        "Milliseconds a plate: median / 95th / 99th percentile of calls with so many plates.",
        _latency(report),
        "## Serving",
        "A server process on one thread: from its start until it is ready, what it occupies after 50 requests, and the "
        "median milliseconds of a request's stages.",
        _serving(report),
        "![Stages](stages.svg)",
        "## Size",
        "The file is what a server on this machine loads. A compiled variant counts the parameters of its source.",
        _sizes(report),
    ]
    for section in (_recipe, _dynamic, _ablation, _kernels):
        parts += section(report)
    return "\n\n".join(parts) + "\n"


def _circumstances(report: Report) -> str:
    dates = sorted({moment[:10] for moment in report["measured"].values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    engines = ", ".join(f"{name} {version}" for name, version in report["engines"].items())
    plates = ", ".join(f"{name} ({count})" for name, count in report["sets"].items())
    return (
        f"Measured by `make report` on {report['machine']} ({report['cores']} CPUs), {when}, with {engines}. "
        "Latencies are medians, of batch 1 on one thread where nothing else is said; all contestants took turns, with "
        f"denormals flushed, and {_fastest_peer(report)} is the fastest peer. Plates: {plates}; {RENDERED} are "
        "rendered, the others photographs."
    )


def comparison(report: Report) -> str:
    """A row per variant, then one per peer, the fastest first."""
    sets = [name for name in (POOLED, RENDERED) if name in _baseline(report)["accuracy"]]
    base, fastest = time_of(report, BASELINE)["median"], _fastest_peer(report)
    many = max(batch for batch, _ in _settings(report))
    settings = [(many, threads) for batch, threads in _settings(report) if batch == many]
    head = [
        *("", *sets, "ms", "of baseline", f"of {fastest}"),
        *(f"ms at {many}, {threads} thread{'s' * (threads > 1)}" for _, threads in settings),
        *("MB", "million MACs", "start s", "MB RAM"),
    ]
    peer = time_of(report, fastest)["median"]

    def row(name: str, label: str, facts: Mapping[str, Any]) -> list[str]:
        one = time_of(report, name)["median"]
        cells = [
            *(label, *(_percent(facts["accuracy"][key]) for key in sets)),
            *(f"{one:.2f}", f"{one / base:.3f}", f"{one / peer:.2f}"),
            *(f"{time_of(report, name, *setting)['median']:.2f}" for setting in settings),
            _megabytes(facts["bytes"]),
        ]
        if "serving" not in facts:  # a peer, which has no server
            return [*cells, "", "", ""]
        served = facts["serving"]
        memory = f"{served['resident_bytes'] / 1e6:.0f}"
        return [*cells, f"{facts['multiply_adds'] / 1e6:.1f}", f"{served['start_s']:.1f}", memory]

    variants, peers = report["variants"], report["peers"]
    rows = [row(name, f"`{name}`", variants[name]) for name in _by_speed(report, variants)]
    return _markdown(head, rows + [row(name, name, peers[name]) for name in _by_speed(report, peers)])


def speeds(times: Mapping[str, Sequence[Mapping[str, Any]]], peers: Iterable[str]) -> str:
    """The contest alone, the fastest first, with ratios to the baseline and to the fastest peer."""
    report, present = {"times": times}, [name for name in peers if name in times]
    blocks = []
    for batch, threads in _settings(report):
        median = {name: time_of(report, name, batch, threads) for name in times}
        base = median[BASELINE]["median"] if BASELINE in median else None
        fastest = min((median[name]["median"] for name in present), default=None)
        rows = [
            [
                name,
                f"{t['median']:.3f}",
                f"{t['p95']:.3f}",
                f"{t['p99']:.3f}",
                f"{t['median'] / base:.3f}" if base else "",
                f"{t['median'] / fastest:.3f}" if fastest else "",
            ]
            for name, t in sorted(median.items(), key=lambda item: item[1]["median"])
        ]
        head = [f"{threads} thread(s), batch {batch}", "ms", "p95", "p99", "of baseline", "of fastest peer"]
        blocks.append(_markdown(head, rows))
    return "\n\n".join(blocks)


def _accuracy(report: Report) -> str:
    sets = [*_baseline(report)["accuracy"]]
    variants = {f"`{name}`": facts for name, facts in report["variants"].items()}
    everyone = {**variants, **report["peers"], **report["attempts"]}
    rows = [[name, *(_percent(facts["accuracy"][key]) for key in sets)] for name, facts in everyone.items()]
    return _markdown(["", *(f"{name} ({_total(report, name)})" for name in sets)], rows)


def _parity(report: Report) -> list[str]:
    rows = []
    for name, facts in report["variants"].items():
        if found := facts.get("parity"):
            texts = sum(found["texts"].values())
            plates = sum(report["sets"][key] for key in found["texts"])
            rows.append([f"`{name}`", f"`{found['source']}`", f"{texts} of {plates:,}", f"{found['logits']:.1e}"])
    if not rows:
        return []
    return [
        "What a compiled variant reads otherwise than the one that it was compiled from, over all sets.",
        _markdown(["", "compiled from", "texts that differ", "largest difference of a logit"], rows),
    ]


def _latency(report: Report) -> str:
    settings = _settings(report)
    head = ["", *(f"batch {batch}, {threads} thread{'s' * (threads > 1)}" for batch, threads in settings), "engine"]
    rows = []
    for name in _by_speed(report, report["times"]):
        cells = [time_of(report, name, *setting) for setting in settings]
        shown = [f"{t['median']:.2f} / {t['p95']:.2f} / {t['p99']:.2f}" for t in cells]
        rows.append([f"`{name}`" if name in report["variants"] else name, *shown, report["engine"][name]])
    return _markdown(head, rows)


def _serving(report: Report) -> str:
    stages = [key for key in _baseline(report)["serving"] if key.endswith("_ms")]
    rows = []
    for name, facts in report["variants"].items():
        served = facts["serving"]
        row = [f"`{name}`", f"{served['start_s']:.2f}", f"{served['resident_bytes'] / 1e6:.0f}"]
        rows.append([*row, *(f"{served[stage]:.3f}" for stage in stages)])
    return _markdown(["", "start s", "MB RAM", *(stage.removesuffix("_ms") for stage in stages)], rows)


def _sizes(report: Report) -> str:
    rows = []
    for name, facts in report["variants"].items():
        nonzero = "" if facts["nonzero"] is None else f"{facts['nonzero']:,}"
        numbers = [f"{facts['parameters']:,}", nonzero, f"{facts['multiply_adds']:,}"]
        share = f"{facts['bytes'] / _baseline(report)['bytes']:.3f}"
        sizes = [_megabytes(facts["bytes"]), share, _megabytes(facts["folder_bytes"])]
        rows.append([f"`{name}`", *sizes, *numbers])
    head = ["", "file, MB", "of baseline", "folder, MB", "parameters", "not 0", "multiply-adds"]
    return _markdown(head, rows)


def _recipe(report: Report) -> list[str]:
    study = report["recipe"]
    if not study:
        return []
    baseline = {
        "accuracy": study["unpruned"],
        "parameters": _baseline(report)["parameters"],
        "nonzero": _baseline(report)["nonzero"],
        **study["stored"],
    }
    labels = [
        f"{row['ratio']:.0%} of {'each layer' if row['scope'] == 'layer' else 'all layers'}"
        + (f", {row['fine_tuning_steps']} steps of training" if row["fine_tuning_steps"] else "")
        for row in study["recipe"]
    ]
    rows = [
        [
            label,
            f"{100 * row['accuracy']:.2f} %",
            f"{1 - row['nonzero'] / row['parameters']:.1%}",
            _megabytes(row["bytes"]),
            _megabytes(row["compressed_bytes"]),
        ]
        for label, row in zip(["`baseline`", *labels], [baseline, *study["recipe"]], strict=True)
    ]
    return [
        "## The published pruning recipe",
        "The smallest weights set to 0 (L1, unstructured), made permanent. Zeros compress (zlib), but the network "
        f"keeps its shapes and computes with them. {_attempt(report, MASKED)} Trained or not, of each "
        "layer or of all, the shapes and so the time are the same. Exact match of "
        f"{study['plates']:,} rendered plates, measured on {study['machine']}.",
        _markdown(["", "exact", "zeros", "weights, MB", "compressed, MB"], rows),
        "### Sensitivity",
        "Exact match when one layer alone loses a share of its weights.",
        "![Sensitivity](sensitivity.svg)",
    ]


def _dynamic(report: Report) -> list[str]:
    return [
        "## Dynamic quantization",
        "As often tried: `quantize_dynamic(network, {Conv2d, Linear})`. Modules that it changed: "
        f"{report['dynamic']['changed']}. The network has no linear layer, and a convolution has no dynamic kernel. "
        + _attempt(report, DYNAMIC),
    ]


def _attempt(report: Report, name: str) -> str:
    """A sentence on the latency and accuracy of one of `peers.attempts`."""
    if name not in report["attempts"]:
        return f"It did not run here: {report['left_out'].get(name)}."
    one, base = (time_of(report, who)["median"] for who in (name, BASELINE))
    scores = report["attempts"][name]["accuracy"]
    read = ", ".join(f"{_percent(scores[key])} of {key}" for key in (POOLED, RENDERED) if key in scores)
    return f"In the contest it took {one:.2f} ms, `baseline` {base:.2f} ms; it read {read}."


def _ablation(report: Report) -> list[str]:
    found = report["ablation"]
    if not found:
        return []
    rows, before = [], None
    for name, row in found["rows"].items():
        untuned = ", ".join(row["untuned"])
        factor = f"{before / row['median']:.2f}" if before else ""
        label = name if before is None else f"+ {name}"
        rows.append([label, f"{row['median']:.3f}", factor, str(row["calls"]), untuned])
        before = row["median"]
    return [
        "## What each pass of the compiler brings",
        f"`baseline` compiled for {found['level']}, each row with those before it; milliseconds a plate.",
        _markdown(["", "ms", "times faster", "calls", "kernels without a tuning record"], rows),
        "![Ablation](ablation.svg)",
    ]


def _kernels(report: Report) -> list[str]:
    parts = []
    for name, found in report["kernels"].items():
        limit = found["limit"]
        rows = [
            _kernel_row(kernel["kernel"], kernel["us"], kernel["multiply_adds"], limit) for kernel in found["kernels"]
        ]
        counts = [kernel["multiply_adds"] for kernel in found["kernels"]]
        spent = sum(kernel["us"] for kernel in found["kernels"])
        within = sum(kernel["us"] for kernel in found["kernels"] if kernel["multiply_adds"])
        rows.append(_kernel_row("all of integers", within, sum(counts), limit))
        rows.append(_kernel_row("all", spent, sum(counts), limit))
        median = 1e3 * time_of(report, name)["median"]
        parts += [
            f"### `{name}`",
            f"One plate on {found['level']}. VNNI does {limit / 1e9:.0f} billion multiply-adds a second here, so that "
            f"its {sum(counts) / 1e6:.1f} million take {sum(counts) / limit * 1e6:.0f} us at least: no schedule can be "
            f"faster. In the contest a plate took {median:.0f} us; what is not in a kernel is the virtual machine's "
            "calls and the copies of crop and logits.",
            _markdown(["", "us", "million multiply-adds", "billion a second", "of the limit"], rows),
        ]
    return ["## Kernels of integers", *parts] if parts else []


def _kernel_row(name: str, microseconds: float, count: int, limit: float) -> list[str]:
    if not count:
        return [name, f"{microseconds:.1f}", "", "", ""]
    rate = count / microseconds * 1e6
    return [name, f"{microseconds:.1f}", f"{count / 1e6:.2f}", f"{rate / 1e9:.0f}", f"{rate / limit:.0%}"]


def _baseline(report: Report) -> Mapping[str, Any]:
    found: Mapping[str, Any] = report["variants"][BASELINE]
    return found


def _settings(report: Report) -> list[tuple[int, int]]:
    """Batch sizes and numbers of threads that were measured."""
    return [(t["batch"], t["threads"]) for t in next(iter(report["times"].values()))]


def _fastest_peer(report: Report) -> str:
    return min(report["peers"], key=lambda name: time_of(report, name)["median"], default=BASELINE)


def _by_speed(report: Report, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: time_of(report, name)["median"])


def _total(report: Report, name: str) -> int:
    total: int = _baseline(report)["accuracy"][name]["total"]
    return total


def _percent(score: Mapping[str, Any]) -> str:
    share, low, high = (100 * value for value in (score["exact"] / score["total"], score["low"], score["high"]))
    return f"{share:.1f} % ({low:.1f} to {high:.1f})"


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.2f}" if size is not None else ""


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
