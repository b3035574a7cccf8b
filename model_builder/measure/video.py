"""Rendered videos on disk: written with what passes in them, and watched as `lpr watch` does."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
from tqdm import tqdm

from model_builder.measure import blocks
from model_builder.render.video import Clip, Passage, VideoRenderer
from service.video.engines import Engines
from service.video.events import Event
from service.video.sources import Source
from service.video.tracks import Track
from service.video.watch import Options, Watch

TRUTH: Final = "passages.json"
SLACK_S: Final = 3.0  # seconds by which an event may lie outside its passage
ALIKE: Final = 4  # characters, in their places, from which a wrong event is of a passage
RATE: Final = 5.0  # frames a second of a stream in the figure of streams


@dataclass
class Score:
    """What became of passages; `single` are errors of the best frames alone, of passages that have an event."""

    passages: int = 0
    told: int = 0
    exact: int = 0
    doubled: int = 0
    missed: int = 0
    false: int = 0
    fused: int = 0
    single: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Speed:
    """CPU seconds of all threads, for so many frames, of which so many were searched."""

    cpu_s: float = 0.0
    frames: int = 0
    looks: int = 0


def write(folder: Path, renderer: VideoRenderer, seed: int, count: int, fps: float) -> None:
    """Write `count` clips from `seed` on, and what passes in them."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number in tqdm(range(count), unit="clip", leave=False, dynamic_ncols=True):
        clip, frames = renderer.clip(seed + number, fps)
        name = f"{clip.kind}-{seed + number:05}.mp4"
        _encode(folder / name, frames, fps)
        truth[name] = {"kind": clip.kind, "passages": [passage._asdict() for passage in clip.passages]}
    (folder / TRUTH).write_text(json.dumps(truth, ensure_ascii=False, indent=1), encoding="utf-8")


def _encode(file: Path, frames: Any, fps: float) -> None:
    import av

    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("libx264", rate=round(fps), options={"crf": "26", "preset": "veryfast"})
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())


def evaluate(folder: Path, engines: Engines, options: Options) -> tuple[Score, Speed]:
    """Watch all clips of a folder, one after the other, with one thread for the images."""
    truth = json.loads((folder / TRUTH).read_text(encoding="utf-8"))
    score, speed = Score(), Speed()
    cv2.setNumThreads(1)
    for name, clip in tqdm(sorted(truth.items()), unit="clip", leave=False, dynamic_ncols=True):
        told = _watched(folder / name, engines, options, speed)
        passages = [Passage(**passage) for passage in clip["passages"]]
        judge(score, Clip(clip["kind"], 0.0, tuple(passages)), told)
    return score, speed


def _watched(file: Path, engines: Engines, options: Options, speed: Speed) -> list[tuple[Event, Track]]:
    """The events of a clip; adds to the speed what they took."""
    told: list[tuple[Event, Track]] = []
    watch = Watch([Source("clip", str(file))], engines, lambda *one: told.append(one), options)
    begun = time.process_time()
    watch.run()
    speed.cpu_s += time.process_time() - begun
    speed.frames += watch.followers["clip"].frames
    speed.looks += watch.followers["clip"].looks
    return told


def judge(score: Score, clip: Clip, told: Sequence[tuple[Event, Track]]) -> None:
    """Add what a clip's events say of its passages: an exact text first, then what is alike, at about the time."""
    left = list(told)
    score.told += len(told)
    for passage in clip.passages:
        mine = [one for one in left if _of(passage, one)]
        mine.sort(key=lambda one: -_places(one[0].text, passage.text))
        left = [one for one in left if not _of(passage, one)]
        score.passages += 1
        score.doubled += len(mine) > 1
        if not mine:
            score.missed += 1
            score.kinds[f"{clip.kind}: missed"] += 1
            score.wrong.append(f"{clip.kind}: {passage.text} missed, {passage.widest:g} pixels")
            continue
        event, track = mine[0]
        score.exact += event.text == passage.text
        score.fused += event.text != passage.text
        score.single += track.best is None or track.best.reading.text != passage.text
        if event.text != passage.text:
            score.wrong.append(f"{clip.kind}: {passage.text} read as {event.text}, {event.confidence:.3f}")
    score.false += len(left)
    score.wrong += [f"{clip.kind}: {event.text} told, which does not pass" for event, _ in left]


def _of(passage: Passage, one: tuple[Event, Track]) -> bool:
    event, track = one
    timely = track.first <= passage.last + SLACK_S and track.last >= passage.first - SLACK_S
    return timely and _places(event.text, passage.text) >= ALIKE


def _places(one: str, other: str) -> int:
    """Characters that are the same in their places, from the left or from the right."""
    return max(sum(map(str.__eq__, one, other)), sum(map(str.__eq__, one[::-1], other[::-1])))


def table(score: Score, speed: Speed) -> str:
    """Markdown of all figures."""
    share = 100 / max(score.passages, 1)
    per_frame = speed.cpu_s / max(speed.frames, 1)
    ratio = f"{score.fused / score.single:.2f}" if score.single else "-"
    rows = [
        ["passages", str(score.passages)],
        ["events", str(score.told)],
        ["exact", f"{score.exact * share:.1f} %"],
        ["doubled", f"{score.doubled * share:.1f} %"],
        ["missed", f"{score.missed * share:.1f} %"],
        ["told without a passage", str(score.false)],
        ["errors of the fused readings, and of the best single frames", f"{score.fused}, {score.single}: {ratio}"],
        ["frames, and of these searched", f"{speed.frames}, {speed.looks}"],
        ["frames a second on one core, decoding included", f"{1 / max(per_frame, 1e-9):.0f}"],
        [f"streams of {RATE:g} frames a second that one core follows", f"{1 / max(per_frame * RATE, 1e-9):.1f}"],
    ]
    return blocks.table(["of the videos", ""], rows)
