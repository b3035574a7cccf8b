"""A report in Markdown: README's table, and a page with a section for each question."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_builder.measure import finding_tables
from model_builder.measure.blocks import table
from model_builder.measure.peers import BASELINE, DYNAMIC, MASKED

Report = Mapping[str, Any]

POOLED = "photographs"  # all real sets together
RENDERED = "plates-500"
FIGURE = "comparison.svg"
USE = {  # of the published variants
    "world": "x86-64 with AVX2, plates of 36 countries: the default",
    "world-quantized": "every other CPU, ARM too, plates of 36 countries",
    "world-baseline": "training and fine-tuning, plates of 36 countries",
    "tvm-fast": "x86-64 with AVX2, plates of China alone: the fastest",
    "pruned-quantized": "every other CPU, ARM too, plates of China alone",
    "quantized": "every CPU: all channels, in int8",
    "tvm": "x86-64 with AVX2: float32",
    "pruned": "fine-tuning, and float32",
    "baseline": "training; all others are made from it",
}


def time_of(report: Report, name: str, batch: int = 1, threads: int = 1) -> Mapping[str, Any]:
    """Times of a variant or another contestant at a batch size and number of threads."""
    found: Mapping[str, Any] = next(t for t in report["times"][name] if (t["batch"], t["threads"]) == (batch, threads))
    return found


def main_set(report: Report) -> str:
    """The set that variants are compared on: the photographs, or the rendered plates where there are none."""
    return POOLED if POOLED in _baseline(report)["accuracy"] else RENDERED


def readme(report: Report, folder: Path, root: Path) -> str:
    """What README shows: the choice of a variant and the figure, without notes; links are relative to `root`."""
    place = os.path.relpath(folder, root)
    return "\n\n".join([choice(report), f"![Speed and accuracy with intervals]({place}/{FIGURE})"])


def choice(report: Report) -> str:
    """A row per variant, the fastest first, and a sentence on how it was measured."""
    chosen = main_set(report)
    rows = []
    for name in by_speed(report, report["variants"]):
        facts = report["variants"][name]
        memory = f"{facts['serving']['resident_bytes'] / 1e6:.0f}"
        figures = [_percent(facts["accuracy"][chosen]), f"{time_of(report, name)['median']:.2f}"]
        rows.append([f"`{name}`", USE.get(name, ""), *figures, _megabytes(facts["bytes"]), memory])
    told = f"{_total(report, chosen)} {'photographs' if chosen == POOLED else 'rendered plates'}"
    return "\n\n".join(
        [
            table(["variant", "take it for", f"read of {told}", "ms a plate", "file, MB", "memory, MB"], rows),
            f"`make report` on {_machine(report)}: exact match with 95 % interval, median time on one thread, memory "
            "of a server.",
        ]
    )


def page(report: Report) -> str:
    """Every question with its table."""
    parts = ["## Which one should I take?", *ADVICE, choice(report), f"![Speed and accuracy]({FIGURE})", FIGURE_TEXT]
    parts += [*report["notes"], _circumstances(report)]
    parts += ["## How many plates does it read?", ACCURACY_TEXT, _accuracy(report)]
    parts += ["## How fast is it, beside other engines?", LATENCY_TEXT, _latency(report)]
    parts += ["## How large is it, and how fast does it start?", SIZE_TEXT, _sizes(report)]
    parts += ["## Where does the time of a request go?", STAGES_TEXT, _stages(report)]
    for section in (_parity, _ablation, _kernels, _tried):
        parts += section(report)
    return "\n\n".join(parts)


def finding(report: Report) -> str:
    """What is measured of the networks that find plates."""
    engines = ", ".join(f"{name} {version}" for name, version in report["engines"].items())
    told = f"`make report-finders` on {_machine(report)}, with {engines}."
    heading, *parts = finding_tables.sections(report["finding"])
    return "\n\n".join([heading, told, *parts])


ADVICE = (
    "- On x86-64 with AVX2, for plates of China alone: `tvm-fast`. It is the fastest and reads what the baseline "
    "reads.\n"
    "- On any other CPU, ARM too: `pruned-quantized`.\n"
    "- To fine-tune on your own plates: start from `pruned`.",
)
FIGURE_TEXT = (
    "Left: median of single plates, and a line to the 99th percentile. Right: exact match with its 95 % interval. "
    "Grey: other engines with the weights of `baseline`, those of int8 with the weights of `quantized`."
)
ACCURACY_TEXT = (
    "Exact match of the whole text, one crop at a time, with the 95 % interval (Wilson). Intervals that overlap say "
    f"that the sets are too small to tell two variants apart. {RENDERED} are rendered plates, and harder."
)
LATENCY_TEXT = (
    "Milliseconds a plate. All contestants took turns, each in its own process, with denormals flushed. p10 "
    "is the time while no neighbour shares the core, where the machine is a virtual one. The last two columns are "
    "batches of the largest size."
)
SIZE_TEXT = (
    "The file is what a server on this machine loads; the folder holds all files. Memory and start are those of a "
    "server process on one thread, after 50 requests. A compiled variant counts the parameters of its source."
)
STAGES_TEXT = "Median milliseconds of the stages of a request, in a server on one thread that is otherwise idle."


def _machine(report: Report) -> str:
    return f"{report['machine']} ({report['cores']} CPUs), {_when(report)}, commit {report['commit']}"


def _when(report: Report) -> str:
    dates = sorted({moment[:10] for moment in report["measured"].values()})
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def _circumstances(report: Report) -> str:
    engines = ", ".join(f"{name} {version}" for name, version in report["engines"].items())
    plates = ", ".join(f"{name} ({count})" for name, count in report["sets"].items())
    return (
        f"This and the next sections: `make report` on {_machine(report)}, with {engines}. Plates: {plates}; "
        f"{RENDERED} are rendered, the others photographs that no training saw."
    )


def speeds(times: Mapping[str, Sequence[Mapping[str, Any]]], peers: Iterable[str]) -> str:
    """Times of the contest, the fastest first, with ratios to the baseline and to the fastest peer."""
    report, present = {"times": times}, [name for name in peers if name in times]
    blocks = []
    for batch, threads in _settings(report):
        median = {name: time_of(report, name, batch, threads) for name in times}
        base = median[BASELINE]["median"] if BASELINE in median else None
        fastest = min((median[name]["median"] for name in present), default=None)
        rows = [
            [
                name,
                f"{t['p10']:.3f}",
                f"{t['median']:.3f}",
                f"{t['p95']:.3f}",
                f"{t['p99']:.3f}",
                f"{t['median'] / base:.3f}" if base else "",
                f"{t['median'] / fastest:.3f}" if fastest else "",
            ]
            for name, t in sorted(median.items(), key=lambda item: item[1]["median"])
        ]
        head = [f"{threads} thread(s), batch {batch}", "p10", "median", "p95", "p99", "of baseline", "of fastest peer"]
        blocks.append(table(head, rows))
    return "\n\n".join(blocks)


def _accuracy(report: Report) -> str:
    sets = [*_baseline(report)["accuracy"]]
    everyone = {f"`{name}`": report["variants"][name] for name in by_speed(report, report["variants"])}
    everyone |= report["peers"]
    rows = [[name, *(_percent(facts["accuracy"][key]) for key in sets)] for name, facts in everyone.items()]
    return table(["", *(f"{name} ({_total(report, name)})" for name in sets)], rows)


def _latency(report: Report) -> str:
    fastest = _fastest_peer(report)
    base, peer = (time_of(report, name)["median"] for name in (BASELINE, fastest))
    many = max(batch for batch, _ in _settings(report))
    settings = [(batch, threads) for batch, threads in _settings(report) if batch == many]
    head = ["", "p10", "median", "p95", "p99", "of `baseline`", f"of {fastest}"]
    head += [f"batch {batch}, {threads} thread{'s' * (threads > 1)}" for batch, threads in settings]
    rows = []
    for name in by_speed(report, [*report["variants"], *report["peers"]]):
        one = time_of(report, name)
        cells = [f"{one[key]:.2f}" for key in ("p10", "median", "p95", "p99")]
        cells += [f"{one['median'] / base:.3f}", f"{one['median'] / peer:.2f}"]
        cells += [f"{time_of(report, name, *setting)['median']:.2f}" for setting in settings]
        rows.append([f"`{name}`" if name in report["variants"] else name, *cells, report["engine"][name]])
    return table([*head, "engine"], rows)


def _sizes(report: Report) -> str:
    rows = []
    for name in by_speed(report, report["variants"]):
        facts = report["variants"][name]
        served = facts["serving"]
        nonzero = "" if facts["nonzero"] is None else f"{facts['nonzero']:,}"
        sizes = [_megabytes(facts["bytes"]), _megabytes(facts["folder_bytes"])]
        running = [f"{served['resident_bytes'] / 1e6:.0f}", f"{served['start_s']:.1f}"]
        counts = [f"{facts['parameters']:,}", nonzero, f"{facts['multiply_adds'] / 1e6:.1f}"]
        rows.append([f"`{name}`", *sizes, *running, *counts])
    head = ["", "file, MB", "folder, MB", "memory, MB", "start, s", "parameters", "not 0", "million multiply-adds"]
    return table(head, rows)


def _stages(report: Report) -> str:
    stages = [key for key in _baseline(report)["serving"] if key.endswith("_ms")]
    rows = [
        [f"`{name}`", *(f"{report['variants'][name]['serving'][stage]:.3f}" for stage in stages)]
        for name in by_speed(report, report["variants"])
    ]
    return table(["", *(stage.removesuffix("_ms") for stage in stages)], rows)


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
        "## Does compiling change what is read?",
        table(["", "compiled from", "texts that differ", "largest difference of a logit"], rows),
    ]


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
        "## What does each pass of the compiler bring?",
        f"`baseline` compiled for {found['level']}, each row with the passes before it; milliseconds a plate. A pass "
        "that brings nothing here may prepare a later one: layout and winograd make what tuned works on.",
        table(["", "ms", "times faster", "calls", "kernels without a tuning record"], rows),
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
            f"One plate by `{name}` on {found['level']}. VNNI does {limit / 1e9:.0f} billion multiply-adds a second on "
            f"a core here, so that {sum(counts) / 1e6:.1f} million take {sum(counts) / limit * 1e6:.0f} us at least: "
            f"no schedule can be faster. In the contest a plate took {median:.0f} us; the rest is calls of the virtual "
            "machine and copies of the crop and the logits.",
            table(["kernel", "us", "million multiply-adds", "billion a second", "of the limit"], rows),
        ]
    return ["## How near is it to what the CPU can do?", *parts] if parts else []


def _kernel_row(name: str, microseconds: float, count: int, limit: float) -> list[str]:
    if not count:
        return [name, f"{microseconds:.1f}", "", "", ""]
    rate = count / microseconds * 1e6
    return [name, f"{microseconds:.1f}", f"{count / 1e6:.2f}", f"{rate / 1e9:.0f}", f"{rate / limit:.0%}"]


def _tried(report: Report) -> list[str]:
    """Techniques that are often recommended and brought nothing here."""
    return [
        "## What was tried and brought nothing?",
        *_recipe(report),
        "**Dynamic quantization**: `quantize_dynamic(network, {Conv2d, Linear})`. Modules that it changed: "
        f"{report['dynamic']['changed']}. The network has no linear layer, and a convolution has no dynamic kernel. "
        + _attempt(report, DYNAMIC),
    ]


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
        "**Pruning by magnitude**: the smallest weights set to 0 (L1, unstructured), made permanent. Zeros compress "
        f"(zlib), but the network keeps its shapes and computes with them. {_attempt(report, MASKED)} Trained or not, "
        "of each layer or of all, the shapes and so the time are the same. Exact match of "
        f"{study['plates']:,} rendered plates, measured on {study['machine']}:",
        table(["", "exact", "zeros", "weights, MB", "compressed, MB"], rows),
    ]


def _attempt(report: Report, name: str) -> str:
    """A sentence on the latency and accuracy of one of `peers.attempts`."""
    if name not in report["attempts"]:
        return f"It did not run here: {report['left_out'].get(name)}."
    one, base = (time_of(report, who)["median"] for who in (name, BASELINE))
    scores = report["attempts"][name]["accuracy"]
    read = ", ".join(f"{_percent(scores[key])} of {key}" for key in (POOLED, RENDERED) if key in scores)
    return f"In the contest it took {one:.2f} ms, `baseline` {base:.2f} ms; it read {read}."


def _baseline(report: Report) -> Mapping[str, Any]:
    found: Mapping[str, Any] = report["variants"][BASELINE]
    return found


def _settings(report: Report) -> list[tuple[int, int]]:
    """Batch sizes and numbers of threads that were measured."""
    return [(t["batch"], t["threads"]) for t in next(iter(report["times"].values()))]


def _fastest_peer(report: Report) -> str:
    return min(report["peers"], key=lambda name: time_of(report, name)["median"], default=BASELINE)


def by_speed(report: Report, names: Iterable[str]) -> list[str]:
    """Names in order of the time a plate, the fastest first."""
    return sorted(names, key=lambda name: time_of(report, name)["median"])


def _total(report: Report, name: str) -> int:
    total: int = _baseline(report)["accuracy"][name]["total"]
    return total


def _percent(score: Mapping[str, Any]) -> str:
    share, low, high = (100 * value for value in (score["exact"] / score["total"], score["low"], score["high"]))
    return f"{share:.1f} % ({low:.1f} to {high:.1f})"


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.2f}" if size is not None else ""
