"""Images to readings on a real artifact: order, times, bounds, and the end."""

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest

from service.artifact import Artifact, read_probe, write, write_probe
from service.backends import Backend
from service.errors import (
    ArtifactError,
    ClientGone,
    EmptyImage,
    Stopping,
    TooLate,
    TooManyPixels,
    UndecodableImage,
)
from service.pipeline import stages
from service.pipeline.budget import Budget
from service.pipeline.items import Item, Seen
from service.pipeline.recognizer import Recognizer
from service.pipeline.stages import Each, Stage, taking_turns
from service.reading import decode
from service.reading.containers import Contained
from service.reading.decode import Decoded
from service.reading.text import Reader
from tests.support.artifacts import TINY_TEXT
from tests.support.images import encode, picture

T = TypeVar("T")


def use(
    artifact: Artifact,
    task: Callable[[Recognizer], Awaitable[T]],
    queue: int = 4,
    threads: int = 2,
    deadline_s: float = 60,
) -> T:
    """Run `task` with a recognizer of `artifact` that is closed afterwards."""

    async def run() -> T:
        recognizer = Recognizer(
            artifact, threads, Budget(queue, threads, 1_000_000), max_pixels=1_000_000, deadline_s=deadline_s
        )
        try:
            return await task(recognizer)
        finally:
            await recognizer.close()

    return asyncio.run(run())


def test_images_are_read_in_their_order(tiny):
    sizes = [(94, 24), (47, 12), (200, 80)]
    images = [encode(".png", picture(*size)) for size in sizes]
    seen, timing = use(tiny, lambda recognizer: recognizer.recognize(images, top_k=2))
    assert [(image.width, image.height) for (image,) in seen] == sizes
    assert [image.reading.text for (image,) in seen] == [TINY_TEXT] * 3
    assert all(len(image.reading.candidates) == 2 for (image,) in seen)
    times = [timing.decode, timing.preprocess, timing.queue, timing.inference, timing.postprocess]
    assert all(seconds >= 0 for seconds in times)
    assert 0 < sum(times) == pytest.approx(timing.total)


def test_an_image_that_cannot_be_read_stays_among_the_others(tiny):
    images = [encode(), b"x", b"", encode(".png", picture(50, 20))]
    seen, _ = use(tiny, lambda recognizer: recognizer.recognize(images, 1))
    assert [type(outcome) for (outcome,) in seen] == [Seen, UndecodableImage, EmptyImage, Seen]
    assert (seen[0][0].width, seen[3][0].width) == (94, 50)
    assert use(tiny, lambda recognizer: recognizer.recognize([], 1))[0] == []
    nothing, timing = use(tiny, lambda recognizer: recognizer.recognize([b"x", b"y"], 1))
    assert [type(outcome) for (outcome,) in nothing] == [UndecodableImage] * 2
    assert timing.inference == 0


class Finding(Recognizer):
    """With a stage of tests behind decoding: an image becomes as many plates as it is 100 pixels wide."""

    def stages(self, engine: Backend, *finder: Backend) -> list[Stage]:
        turns, wanted, begun, decode, prepare, *rest = super().stages(engine)
        return [turns, wanted, begun, decode, Each("find", self._find), prepare, *rest]

    def _find(self, item: Item) -> list[Decoded]:
        count = item.value.size[0] // 100
        return [decode.Decoded(item.value.pixels, (100, number)) for number in range(count)]


def test_an_image_becomes_as_many_plates_as_a_stage_finds(tiny, gate):
    gate.open()
    images = [encode(".png", picture(width, 40)) for width in (90, 110, 310)]
    refusal = UndecodableImage("what was sent in the place of an image")

    async def task() -> list[Any]:
        recognizer = Finding(tiny, 1, Budget(99, 1, 1_000_000), max_pixels=1_000_000)
        seen, _ = await recognizer.recognize([images[0], refusal, *images[1:], b"x"], 1)
        await recognizer.close()
        return seen

    none, refused, one, three, undecodable = asyncio.run(task())
    assert (none, refused) == ((), (refusal,))
    assert [(seen.height, seen.reading.text) for seen in one] == [(0, TINY_TEXT)]
    assert [(seen.height, seen.reading.text) for seen in three] == [(number, TINY_TEXT) for number in range(3)]
    assert [type(outcome) for outcome in undecodable] == [UndecodableImage]
    assert sum(gate.batches) == 4


def test_an_error_says_what_is_wrong(tiny):
    for image, error, sentence in (
        (b"", EmptyImage, "The image has no bytes"),
        (encode(".png", picture(2000, 1000)), TooManyPixels, "2000 x 1000"),
    ):
        (((outcome,),), _) = use(tiny, lambda recognizer, image=image: recognizer.recognize([image], 1))
        assert isinstance(outcome, error)
        assert sentence in str(outcome)


def test_beyond_the_bound_it_is_busy_and_afterwards_not(tiny):
    async def task(recognizer: Recognizer) -> list[object]:
        calls = [recognizer.recognize([encode()] * 2, 1) for _ in range(3)]
        outcomes: list[object] = list(await asyncio.gather(*calls, return_exceptions=True))
        await recognizer.recognize([encode()] * 4, 1)
        return outcomes

    outcomes = use(tiny, task, queue=4)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Busy", "tuple", "tuple"]


def test_a_failed_request_gives_its_place_back(tiny):
    async def task(recognizer: Recognizer) -> None:
        for _ in range(3):
            await recognizer.recognize([b"x"], 1)
        await recognizer.recognize([encode()], 1)

    use(tiny, task, queue=1)


def test_concurrent_requests_do_not_mix(tiny):
    async def task(recognizer: Recognizer) -> list[int]:
        calls = [recognizer.recognize([encode(".png", picture(20 + i, 10))], 1) for i in range(20)]
        return [seen.width for ((seen,),), _ in await asyncio.gather(*calls)]

    assert use(tiny, task, queue=20) == list(range(20, 40))


def test_requests_that_wait_are_computed_together_up_to_the_largest_batch(tiny, gate):
    async def task(recognizer: Recognizer) -> list[int]:
        told, used = [], []

        def remember(images: int, cpu_s: float) -> None:
            told.append(images)
            used.append(cpu_s)

        recognizer.on_batch = remember
        calls = [asyncio.create_task(recognizer.recognize([encode(".png", picture(40, 10))], 1))]
        await asyncio.to_thread(gate.wait_for, 1)
        for i in range(1, 11):
            calls.append(asyncio.create_task(recognizer.recognize([encode(".png", picture(40 + i, 10))], 1)))
        await asyncio.sleep(0)
        gate.open()
        answers = await asyncio.gather(*calls)
        assert gate.batches == told == [1, tiny.manifest.max_batch, 10 - tiny.manifest.max_batch]
        assert {seen.reading.text for ((seen,),), _ in answers} == {TINY_TEXT}
        assert all(cpu_s > 0 for cpu_s in used)
        return [seen.width for ((seen,),), _ in answers]

    assert use(tiny, task, queue=11, threads=1) == list(range(40, 51))


def test_a_small_image_does_not_wait_for_a_large_one_to_be_decoded(tiny, monkeypatch):
    original, read_small = decode.decode_plate, threading.Event()

    def slow(image: Contained, *rest: Any) -> decode.Decoded:
        if image.width == 900:
            assert read_small.wait(timeout=60)
        return original(image, *rest)

    monkeypatch.setattr(decode, "decode_plate", slow)

    async def task(recognizer: Recognizer) -> list[int]:
        large = asyncio.create_task(recognizer.recognize([encode(".bmp", picture(900, 900))], 1))
        await asyncio.sleep(0)
        seen = [await recognizer.recognize([encode()], 1)]
        read_small.set()
        seen.append(await large)
        return [image.width for ((image,),), _ in seen]

    assert use(tiny, task, threads=1) == [94, 900]


@pytest.mark.parametrize("image", [encode(), encode(".bmp", picture(900, 900))], ids=["small", "large"])
def test_what_waited_too_long_is_refused_and_never_computed(tiny, gate, image):
    async def task(recognizer: Recognizer) -> None:
        first = asyncio.create_task(recognizer.recognize([encode()], 1))
        await asyncio.to_thread(gate.wait_for, 1)
        with pytest.raises(TooLate):
            await recognizer.recognize([image] * 2, 1)
        gate.open()
        await first  # it was late too, but the engine had begun
        await recognizer.recognize([encode()], 1)

    use(tiny, task, threads=1, deadline_s=0.5)
    assert gate.batches == [1, 1]


def test_what_has_begun_in_time_is_finished_however_long_it_takes(tiny, gate):
    async def task(recognizer: Recognizer) -> int:
        reading = asyncio.create_task(recognizer.recognize([encode()] * (tiny.manifest.max_batch + 1), 1))
        await asyncio.to_thread(gate.wait_for, 1)
        await asyncio.sleep(0.3)
        gate.open()
        seen, _ = await reading
        return len(seen)

    assert use(tiny, task, threads=1, deadline_s=0.1) == tiny.manifest.max_batch + 1


def test_what_has_begun_ends_with_its_client(tiny, gate):
    async def task(recognizer: Recognizer) -> None:
        left = asyncio.Event()
        images = [encode()] * (tiny.manifest.max_batch + 1)
        reading = asyncio.create_task(recognizer.recognize(images, 1, gone=left.wait))
        await asyncio.to_thread(gate.wait_for, 1)
        await asyncio.sleep(0.3)
        left.set()
        with pytest.raises(ClientGone):
            await reading
        gate.open()

    use(tiny, task, threads=1, deadline_s=0.1)
    assert len(gate.batches) == 1


def test_what_nobody_waits_for_any_more_is_never_computed(tiny, gate):
    async def task(recognizer: Recognizer) -> None:
        first = asyncio.create_task(recognizer.recognize([encode()], 1))
        await asyncio.to_thread(gate.wait_for, 1)
        left = asyncio.Event()
        second = asyncio.create_task(recognizer.recognize([encode()], 1, gone=left.wait))
        third = asyncio.create_task(recognizer.recognize([encode()], 1))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(ClientGone):
            await second
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        gate.open()
        await first

    use(tiny, task, threads=1)
    assert gate.batches == [1]


def test_an_engine_that_fails_fails_the_request_and_works_on(tiny, monkeypatch):
    read, failing = Reader.read, [True]

    def fail_once(*arguments: object) -> object:
        if failing:
            raise ZeroDivisionError(failing.pop())
        return read(*arguments)

    monkeypatch.setattr(Reader, "read", fail_once)

    async def task(recognizer: Recognizer) -> str:
        with pytest.raises(ZeroDivisionError):
            await recognizer.recognize([encode()], 1)
        ((seen,),), _ = await recognizer.recognize([encode()], 1)
        return seen.reading.text

    assert use(tiny, task) == TINY_TEXT


def test_retired_it_is_not_ready_but_serves_until_closed(tiny):
    async def task(recognizer: Recognizer) -> None:
        assert recognizer.ready
        recognizer.retire()
        assert not recognizer.ready
        await recognizer.recognize([encode()], 1)
        await recognizer.close()
        with pytest.raises(Stopping):
            await recognizer.recognize([encode()], 1)

    use(tiny, task)


def test_others_get_their_turn_while_many_images_are_read(monkeypatch):
    now, pauses = 0.0, []
    clock = SimpleNamespace(perf_counter=lambda: now, sleep=lambda seconds: pauses.append(seconds))
    monkeypatch.setattr(stages, "time", clock)
    for _ in taking_turns(range(10)):
        now += 0.4e-3
    assert pauses == [stages.PAUSE_S] * 3  # of 4 ms in all, and none after the last image


def test_closing_finishes_what_was_admitted(tiny):
    async def task(recognizer: Recognizer) -> str:
        reading = asyncio.create_task(recognizer.recognize([encode()], 1))
        await asyncio.sleep(0)
        await recognizer.close()
        ((seen,),), _ = await reading
        return seen.reading.text

    assert use(tiny, task) == TINY_TEXT


def test_closing_waits_for_a_request_that_was_given_up(tiny):
    async def task(recognizer: Recognizer) -> None:
        images = [encode(".png", picture(900, 900))] * 4
        reading = asyncio.create_task(recognizer.recognize(images, 1))
        await asyncio.sleep(0.001)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await recognizer.close()  # its images are still being decoded, and only then computed

    use(tiny, task)


def test_a_model_that_computes_something_else_is_refused(tiny, tmp_path):
    shutil.copy(tiny.folder / "model.onnx", tmp_path)
    ((images, logits),) = read_probe(tiny)
    write_probe(tmp_path, images, logits + np.float32(1))
    with pytest.raises(ArtifactError, match=r"probe\.npz: onnxruntime .* is off by 1"):
        Recognizer(write(tmp_path, tiny.manifest), 1, Budget(1, 1, 1), max_pixels=1)
