"""A second variant reads along: what it agrees on is counted, and nobody waits for it."""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.artifact import Artifact, write
from service.errors import ArtifactError
from service.pipeline.budget import Budget
from service.pipeline.recognizer import Recognizer
from service.pipeline.registry import Variants
from service.pipeline.shadow import WAITING, Shadow
from service.settings import Settings
from tests.support.answers import AUTHORIZED, JPEG, KEY, activate
from tests.support.artifacts import describe
from tests.support.images import encode, picture
from tests.support.servers import Serving, eventually


def counts(client: httpx.Client) -> dict[str, float]:
    """Images by the backend, the shadow and the outcome."""
    found = re.findall(
        r'lpr_shadow_images_total\{backend="(.*?)",outcome="(.*?)",shadow="(.*?)"\} (\S+)', client.get("/metrics").text
    )
    return {f"{backend} {shadow} {outcome}": float(value) for backend, outcome, shadow, value in found}


def test_what_the_shadow_reads_otherwise_is_counted(serving: Serving, originals: Path):
    client = serving(artifacts=originals, shadow="other", shadow_share=1, api_keys=KEY)
    client.headers.update(AUTHORIZED)
    assert client.get("/variants").json()["shadow"] == "other"
    client.post("/recognize", files=[("image", encode()), ("image", b"x"), ("image", encode(".png"))])
    eventually(lambda: counts(client) == {"tiny other disagreed": 2})
    client.post("/recognize", params={"variant": "other"}, content=encode(), headers=JPEG)  # not the active one's
    client.post("/recognize", params={"format": "cn-standard"}, content=encode(), headers=JPEG)
    activate(client, "other")  # beside itself it is no shadow
    client.post("/recognize", content=encode(), headers=JPEG)
    activate(client, "tiny")
    client.post("/recognize", content=encode(), headers=JPEG)
    eventually(lambda: counts(client) == {"tiny other disagreed": 3})


def test_beside_itself_or_with_no_share_it_reads_nothing(serving: Serving, originals: Path):
    client = serving(artifacts=originals, variant="other", shadow="other", shadow_share=1)
    client.post("/recognize", content=encode(), headers=JPEG)
    none = serving(artifacts=originals, shadow="other", shadow_share=0)
    none.post("/recognize", content=encode(), headers=JPEG)
    assert counts(client) == counts(none) == {}


@pytest.mark.parametrize(("name", "sentence"), [("none", "no variant 'none'"), ("wrong", r"wrong/probe\.npz")])
def test_a_shadow_that_is_not_there_or_does_not_prove_itself_is_refused(originals: Path, name: str, sentence: str):
    with pytest.raises(ArtifactError, match=sentence):
        create_app(Settings(variant="tiny", artifacts=originals, threads=1, shadow=name))


def use(root: Path, task: Callable[[Variants, Shadow, Counter[str]], Awaitable[None]]) -> None:
    """Run `task` with a shadow of the same texts, which takes everything."""

    def load(found: Artifact) -> Recognizer:
        return Recognizer(found, 1, Budget(99, 1, 1_000_000), max_pixels=1_000_000)

    async def run() -> None:
        variants, counted = Variants(root, "tiny", load, choice=True, also="twin"), Counter[str]()
        shadow = Shadow(variants, "twin", 1, lambda outcome, images: counted.update({outcome: images}))
        comparing = asyncio.create_task(shadow.run())
        await task(variants, shadow, counted)
        comparing.cancel()
        await variants.close()

    asyncio.run(run())


@pytest.fixture
def twins(originals: Path, tmp_path: Path) -> Path:
    """The tiny artifact twice."""
    for name in ("tiny", "twin"):
        shutil.copytree(originals / "tiny", tmp_path / name)
    write(tmp_path / "twin", describe("twin"))
    return tmp_path


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it may be of another thread
            await asyncio.sleep(0.005)


def test_it_reads_only_while_nothing_else_is_read(twins: Path):
    async def task(variants: Variants, shadow: Shadow, counted: Counter[str]) -> None:
        image = encode()
        seen, _ = await variants.active.recognize([image], 1)
        large = encode(".png", picture(1000, 1000))
        reading = asyncio.create_task(variants.active.recognize([large] * 5, 1))
        await asyncio.sleep(0)
        shadow.offer([image], seen, find=False)
        await until(lambda: bool(counted))
        assert reading.done()
        assert counted == {"agreed": 1}

    use(twins, task)


def test_what_it_does_not_get_to_is_skipped(twins: Path):
    async def task(variants: Variants, shadow: Shadow, counted: Counter[str]) -> None:
        image = encode()
        seen, _ = await variants.active.recognize([image], 1)
        for _ in range(WAITING + 3):
            shadow.offer([image], seen, find=False)  # without a pause in which it could read
        assert counted == {"skipped": 3}
        shadow.offer([bytes(33 * 1024**2)], seen, find=False)
        assert counted == {"skipped": 4}
        await until(lambda: counted["agreed"] == WAITING)
        shadow.offer([image], seen, find=False)
        await until(lambda: counted["agreed"] == WAITING + 1)

    use(twins, task)


def test_a_failing_shadow_is_counted_and_goes_on(twins: Path):
    async def task(variants: Variants, shadow: Shadow, counted: Counter[str]) -> None:
        image = encode()
        seen, _ = await variants.active.recognize([image], 1)
        await variants.activate("twin")
        await variants.activate("tiny")  # so that the shadow is no longer loaded
        (twins / "twin" / "model.onnx").unlink()
        shadow.offer([image, image], seen * 2, find=False)
        await until(lambda: counted["failed"] == 2)

    use(twins, task)
