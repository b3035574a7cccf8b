"""`make photographs`: whole photographs to texts on one core, beside AgentCLPR; ARGS="--help" for options.

A real server of one thread is asked. It, and AgentCLPR in a child process, have the same core, and the client another.
AgentCLPR is told the path of a file and reads it before its clock starts; the time of our server is that of the whole
request, as its client sees it.
"""

import argparse
import http.client
import json
import mimetypes
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_builder import evaluate
from model_builder.measure import blocks, serving
from model_builder.measure.load import scenes, servers
from model_builder.measure.load.__main__ import plates
from model_builder.measure.load.servers import Running
from model_builder.measure.parts import Parts, identity
from model_builder.train import labels
from service import artifact
from service.settings import REPOSITORY, Settings

OURS, PEER = "lpr", "AgentCLPR 1.1"
SETS: Final = ("ccpd-scenes", "easypr-scenes")  # of ../shared/data, where they exist
STAGES: Final = ("decode", "find", "rectify", "preprocess", "queue", "inference", "postprocess", "total")
SIZES: Final = ((1920, 1080, 2, 6), (4000, 3000, 1, 3))  # width, height, plates, how many photographs
REPEATS: Final = 10  # requests for each photograph
WARM_UP: Final = 5  # requests before those that count
MIXED: Final = 1000  # photographs before the server's memory is looked at
_OTHERS: Final = ((640, 480), (720, 1160), (1280, 720))  # sizes of more photographs among them
_EACH: Final = 4

drawn = cache(scenes.photographs)
Read = Callable[[Path], tuple[float, list[str]]]  # a file to milliseconds and texts


def main() -> int:
    """Measure what is not kept, print the tables and write them."""
    options = _parser().parse_args()
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    settings = Settings()
    if settings.finder is None:
        raise SystemExit(f"There is no finder in {settings.artifacts}.")
    found = measure(Parts(options.work), settings, options.real or _default_sets())
    text = markdown(found)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    blocks.put(options.out / blocks.PAGE, "photographs", text)
    return 0


def _default_sets() -> list[Path]:
    data = REPOSITORY.parent / "shared" / "data"
    return [data / name for name in SETS if (data / name).is_dir()]


def measure(parts: Parts, settings: Settings, real: Sequence[Path]) -> dict[str, Any]:
    """All figures, as plain data; a part that is kept is not measured again."""
    assert settings.finder is not None
    names = settings.variant, settings.finder, artifact.find(settings.artifacts, settings.finder).finder.refiner
    versions = {"versions": [identity(settings.artifacts, name) for name in names]}
    sets = {name: found for name, folder in labels.named(real).items() if (found := _labelled(folder))}
    return {
        "machine": evaluate.machine(),
        "commit": evaluate.commit(),
        "names": names,
        "sets": {
            name: parts.get(f"reading {name}", {**versions, "texts": texts}, partial(_versus, settings, texts))
            for name, texts in sets.items()
        },
        "stages": {
            f"{width}x{height}": parts.get(
                f"stages {width}x{height}", versions, partial(_stages, settings, (width, height, number, count))
            )
            for width, height, count, number in SIZES
        },
        "memory": parts.get("memory", versions, partial(_memory, settings)),
        "measured": parts.measured,
    }


@contextmanager
def one_core() -> Iterator[None]:
    """What is started within has one core, and all of it the same."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def served(settings: Settings) -> Iterator[Running]:
    """Our server of one thread on one core."""
    chosen = {"artifacts": str(settings.artifacts), "finder": str(settings.finder), "threads": "1"}
    with ExitStack() as stack:
        with one_core():
            running = stack.enter_context(servers.running(servers.ours(settings.variant, **chosen)))
        yield running


def ask(running: Running, image: bytes, media_type: str = "image/jpeg") -> tuple[float, dict[str, Any]]:
    """Milliseconds of a request to our server, and its answer. Raises RuntimeError where that is an error."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)) as connection:
        started = time.perf_counter()
        connection.request("POST", "/recognize", image, {"Content-Type": media_type})
        response = connection.getresponse()
        answer = response.read()
        spent = 1e3 * (time.perf_counter() - started)
    if response.status != 200:
        raise RuntimeError(f"unexpected answer: {response.status} {answer[:200]!r}")
    return spent, json.loads(answer)


def read(running: Running, path: Path) -> tuple[float, list[str]]:
    """Milliseconds and texts of our server."""
    spent, answer = ask(running, path.read_bytes(), mimetypes.guess_type(path)[0] or "image/jpeg")
    return spent, [plate["text"] for plate in answer["results"][0]["plates"]]


class _Child:
    """AgentCLPR."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._questions, self._answers = process.stdin, process.stdout

    def read(self, path: Path) -> tuple[float, list[str]]:
        """Milliseconds and texts."""
        self._questions.write(f"{path}\n")
        self._questions.flush()
        answer = json.loads(self._answers.readline())
        return answer["ms"], answer["texts"]


@contextmanager
def _peer() -> Iterator[dict[str, Read]]:
    """AgentCLPR, where it is installed."""
    if find_spec("agentclpr") is None:
        yield {}
        return
    command = [sys.executable, "-m", f"{servers.PEERS}.agentclpr_peer"]
    pipe = subprocess.PIPE
    with (
        one_core(),
        subprocess.Popen(
            command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        ) as process,
    ):
        try:
            yield {PEER: _Child(process).read}
        finally:
            process.kill()


def _labelled(folder: Path) -> list[tuple[str, list[str]]]:
    """Files of whole photographs, each with the texts of its plates; none where the set has no corners or no texts."""
    columns, rows = labels.table(folder / labels.LISTING)
    if not {"file", "text", *labels.CORNERS} <= {*columns}:
        return []
    texts: dict[str, list[str]] = {}
    for _, row in rows:
        texts.setdefault(str(labels.image_of(folder, row["file"])), []).append(row["text"])
    return [*texts.items()]


def _versus(settings: Settings, photographs: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """What each reads of labelled photographs, in turns."""
    with served(settings) as running, _peer() as peer:
        return versus({OURS: partial(read, running), **peer}, photographs)


def versus(readers: Mapping[str, Read], photographs: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """Of each of `readers`: plates of which a text of the photograph is exactly the true one, and times."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    exact = dict.fromkeys(readers, 0)
    for path, _ in photographs[:WARM_UP]:
        for reader in readers.values():
            reader(Path(path))
    for path, wanted in photographs:
        for name, reader in readers.items():
            spent, texts = reader(Path(path))
            times[name].append(spent)
            exact[name] += sum(plain(text) in map(plain, texts) for text in wanted)
    found = {name: {"exact": exact[name], **_spread(times[name])} for name in readers}
    return {"photographs": len(photographs), "plates": sum(len(texts) for _, texts in photographs), "readers": found}


def plain(text: str) -> str:
    """Without blanks, dots and dashes."""
    return re.sub(r"[\s·.\-]", "", text)


def _spread(times: Sequence[float]) -> dict[str, float]:
    median, p95 = np.percentile(times, (50, 95))
    return {"median": float(median), "p95": float(p95)}


def _stages(settings: Settings, what: tuple[int, int, int, int]) -> dict[str, Any]:
    images = drawn(*what)
    with served(settings) as running:
        return stages(running, images)


def stages(running: Running, images: Sequence[bytes]) -> dict[str, Any]:
    """Milliseconds of requests by their client, medians of the stages that the server tells, and plates given."""
    for image in images[:WARM_UP]:
        ask(running, image)
    asked = [ask(running, image) for image in images for _ in range(REPEATS)]
    told = [answer["timing_ms"] for _, answer in asked]
    given = [len(answer["results"][0]["plates"]) for _, answer in asked]
    return {
        "photographs": len(images),
        "megabytes": float(np.mean([len(image) for image in images]) / 1e6),
        "plates": float(np.mean(given)),
        "stages": {stage: float(np.median([timing[stage] for timing in told])) for stage in STAGES},
        **_spread([spent for spent, _ in asked]),
    }


def _memory(settings: Settings) -> dict[str, Any]:
    """Bytes that our server occupies after mixed photographs, and what is its share of them."""
    images = mixed()
    with served(settings) as running:
        for number in range(MIXED):
            ask(running, images[number % len(images)])
        return {
            "photographs": MIXED,
            "resident": serving.resident(running.process.pid),
            "proportional": running.usage().memory,
        }


def mixed() -> list[bytes]:
    """Crops of plates and photographs, from small to very large."""
    images = plates(4 * _EACH)
    for size in _OTHERS:
        images += drawn(*size, _EACH)
    for width, height, count, number in SIZES:
        images += drawn(width, height, number, count)
    return images


def markdown(found: Mapping[str, Any]) -> str:
    """How it was measured, and the tables."""
    variant, finder, refiner = found["names"]
    dates = sorted({moment[:10] for moment in found["measured"].values()})
    memory = found["memory"]
    paragraphs = [
        "## How long does a photograph take?",
        f"`make photographs` on {found['machine']}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, commit "
        f"{found['commit']}: a server of `{variant}` with `{finder}` and `{refiner}`, one thread on one core; "
        "milliseconds of whole requests, as their client sees them.",
    ]
    if found["sets"]:
        paragraphs += [_versus_text(found["sets"]), _versus_table(found["sets"])]
    return "\n\n".join(
        [
            *paragraphs,
            f"Rendered photographs, each asked for {REPEATS} times. The stages are medians of what the server tells; "
            "those of several plates are added up.",
            _stages_table(found["stages"]),
            f"After {memory['photographs']:,} photographs and crops of mixed sizes, one by one, the server "
            f"occupies {memory['resident'] / 1e6:.0f} MB of memory "
            f"({memory['proportional'] / 1e6:.0f} MB where memory that is shared counts in parts).",
        ]
    )


def _versus_text(sets: Mapping[str, Any]) -> str:
    text = "Read: plates of which a text of the photograph is exactly the true one. "
    if any(PEER in facts["readers"] for facts in sets.values()):
        return text + f"{PEER} has the same core, and takes turns with the server."
    return text + f"{PEER} is not installed, and was left out."


def _versus_table(sets: Mapping[str, Any]) -> str:
    rows = []
    for name, facts in sets.items():
        other = facts["readers"].get(PEER)
        for reader, figures in facts["readers"].items():
            read = f"{figures['exact']} of {facts['plates']}, {100 * figures['exact'] / facts['plates']:.1f} %"
            share = f"{figures['median'] / other['median']:.3f}" if other else ""
            rows.append([name, reader, read, f"{figures['median']:.1f}", f"{figures['p95']:.1f}", share])
    return blocks.table(["photographs", "", "read", "median", "p95", f"of {PEER}"], rows)


def _stages_table(sizes: Mapping[str, Any]) -> str:
    rows = []
    for size, facts in sizes.items():
        cells = [size, str(facts["photographs"]), f"{facts['megabytes']:.2f}", f"{facts['plates']:.1f}"]
        figures = [facts["median"], facts["p95"], *facts["stages"].values()]
        rows.append([*cells, *(f"{figure:.2f}" for figure in figures)])
    head = ["", "photographs", "MB each", "plates given", "request", "p95", *STAGES]
    return blocks.table(head, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_builder.measure.load.photographs", description=__doc__)
    parser.add_argument(
        "--real",
        type=Path,
        action="append",
        metavar="FOLDER",
        help=f"labelled photographs, or a folder of sets of them (default: {', '.join(SETS)} of ../shared/data)",
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "report", help="folder of the page (default: report)")
    parser.add_argument(
        "--work",
        type=Path,
        default=REPOSITORY / "runs" / "photographs",
        help="folder of finished parts, which are not committed (default: runs/photographs)",
    )
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
