"""One budget for all variants of a process."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from service.errors import Busy, TooManyPixels
from service.pipeline import budget as bounds
from service.pipeline.budget import AT_ONCE, Budget
from service.pipeline.recognizer import Recognizer
from service.reading import decode
from service.reading.containers import Contained
from tests.support.images import encode, picture

LIMIT = 1_000_000


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until a condition holds, but not for ever."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)


def test_two_variants_have_no_more_places_than_one(tiny, gate):
    async def task() -> None:
        budget = Budget(4, 1, LIMIT)
        first, second = (Recognizer(tiny, 1, budget, LIMIT, deadline_s=60) for _ in range(2))
        try:
            reading = [asyncio.create_task(one.recognize([encode()] * 2, 1)) for one in (first, second)]
            await asyncio.to_thread(gate.wait_for, 1)
            with pytest.raises(Busy, match="The queue is full"):
                budget.check_room()
            for one in (first, second):
                with pytest.raises(Busy):
                    await one.recognize([encode()], 1)
            gate.open()
            await asyncio.gather(*reading)
            budget.check_room()
        finally:
            gate.open()
            await first.close()
            await second.close()

    asyncio.run(task())


def test_an_image_takes_places_by_the_time_that_it_costs():
    budget = Budget(256, 1, 25_000_000)
    assert budget.places([94 * 24] * 3, find=False) == 3
    assert budget.places([1280 * 720], find=True) == 8
    assert budget.places([12_000_000], find=True) == 20
    assert budget.places([None, 1 << 40], find=False) == 2 * 26, "an image has up to 25 million pixels, or is refused"


def test_the_pixels_of_a_request_are_bounded():
    budget = Budget(256, 1, 25_000_000)
    assert budget.places([25_000_000] * 4, find=True)
    with pytest.raises(TooManyPixels, match=r"100,000,001 pixels together.*send them in several requests"):
        budget.places([25_000_000] * 4 + [1], find=True)
    assert Budget(256, 1, 200_000_000).places([200_000_000], find=True), "an image alone may have as many as it may"


def test_large_images_fill_the_queue_at_once(tiny, gate, monkeypatch):
    """As many as it holds by their pixels, and not by their number, so that none waits to be refused."""
    monkeypatch.setattr(bounds, "PER_PLACE", 100_000)
    large = encode(".png", picture(900, 900))

    async def task() -> None:
        budget = Budget(10, 1, LIMIT)
        recognizer = Recognizer(tiny, 1, budget, LIMIT, deadline_s=60)
        reading = [asyncio.create_task(recognizer.recognize([large], 1)) for _ in range(2)]
        await until(lambda: budget._taken == 18)
        with pytest.raises(Busy):
            await recognizer.recognize([encode()], 1)
        gate.open()
        await asyncio.gather(*reading)
        await recognizer.recognize([large] * 9, 1)  # what is alone is read, whatever it takes
        await recognizer.close()

    asyncio.run(task())


def test_a_request_of_many_images_gives_its_places_back_as_it_is_read(tiny, gate, monkeypatch):
    """Else one request would keep everybody out until its last image is read."""
    monkeypatch.setattr(bounds, "PER_PLACE", 100_000)

    async def task() -> None:
        budget = Budget(80, 1, LIMIT)
        recognizer = Recognizer(tiny, 1, budget, LIMIT, deadline_s=60)
        reading = asyncio.create_task(recognizer.recognize([encode(".png", picture(900, 900))] * 9, 1))
        await asyncio.to_thread(gate.wait_for, 1)
        await until(lambda: 0 < budget._taken <= 81 - 8)
        gate.open()
        await reading
        await recognizer.close()
        assert budget._taken == 0

    asyncio.run(task())


def test_two_variants_decode_no_more_large_images_at_a_time_than_one(tiny, monkeypatch):
    original, lock = decode.decode_plate, threading.Lock()
    now, most = 0, 0

    def counted(image: Contained, *rest: Any) -> decode.Decoded:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return original(image, *rest)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(decode, "decode_plate", counted)

    async def task() -> None:
        budget = Budget(40, 2, LIMIT)
        both = [Recognizer(tiny, 2, budget, LIMIT, deadline_s=60) for _ in range(2)]
        await asyncio.gather(*[one.recognize([encode(".png", picture(900, 900))] * 8, 1) for one in both])
        for one in both:
            await one.close()

    asyncio.run(task())
    assert most == 2


def test_pixels_that_are_decoded_at_a_time_are_bounded():
    budget = Budget(40, 2 * AT_ONCE, LIMIT)
    inside, enough, go_on = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def work(pixels: int) -> None:
        with budget.pixels(pixels):
            inside.release()
            go_on.wait(timeout=60)
        enough.release()

    for pixels in [LIMIT, 0] * AT_ONCE:  # 0: nobody knows how many, so it may be the largest
        budget.decode(partial(work, pixels))
    for _ in range(AT_ONCE):
        assert inside.acquire(timeout=20)
    assert not inside.acquire(timeout=0.2)
    go_on.set()
    for _ in range(2 * AT_ONCE):
        assert enough.acquire(timeout=20)
