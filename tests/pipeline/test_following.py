"""Processes that share LPR_SWITCH_FILE agree on the variant. Here they are several `Variants` in one process."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service import artifact
from service.artifact import Artifact
from service.errors import ArtifactError, LprError, VariantUnusable
from service.pipeline import catalogue, registry
from service.pipeline.registry import Variants

CONVERGED_S = 1.0
SLOW_S = 2.0  # longer than all may take to agree


class Loaded:
    """What stands for a recognizer."""

    def __init__(self, artifact: Artifact) -> None:
        self.manifest, self.ready, self.closed = artifact.manifest, True, False

    async def close(self) -> None:
        self.closed = True


class Process:
    """A `Variants` that loads `other` slowly, and nothing that is `broken`."""

    def __init__(self, root: Path, switch_file: Path, slow_s: float = 0.0) -> None:
        self.slow_s, self.broken, self.made = slow_s, set[str](), list[Loaded]()
        self.variants = Variants(root, "tiny", self._load, True, switch_file=switch_file)  # type: ignore[arg-type]

    def _load(self, artifact: Artifact) -> Loaded:
        if artifact.manifest.variant == "other":
            time.sleep(self.slow_s)
        if artifact.manifest.variant in self.broken:
            raise MemoryError  # anything, not just what is expected
        self.made.append(Loaded(artifact))
        return self.made[-1]


@pytest.fixture
def root(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "variants"))


@asynccontextmanager
async def following(*processes: Process) -> Any:
    async with AsyncExitStack() as stack:
        for process in processes:
            task = asyncio.create_task(process.variants.follow())
            stack.callback(task.cancel)
            stack.push_async_callback(process.variants.close)
        yield


async def agreed(name: str, *processes: Process, within_s: float = CONVERGED_S) -> None:
    """All come to read with `name`, and stay with it."""
    end = time.monotonic() + within_s
    while any(process.variants.name != name for process in processes):
        assert time.monotonic() < end, [process.variants.name for process in processes]
        await asyncio.sleep(0.02)
    await asyncio.sleep(3 * registry.FOLLOW_S)
    assert all(process.variants.name == name for process in processes)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_one_that_switches_while_another_still_loads_comes_to_what_was_written_last(root, tmp_path):
    async def test() -> None:
        slow, quick = (Process(root, tmp_path / "switch", slow_s) for slow_s in (1.0, 0.0))
        async with following(slow, quick):
            switching = asyncio.create_task(slow.variants.activate("other"))
            await asyncio.sleep(0.1)
            await quick.variants.activate("wrong")  # which nobody proves here
            await agreed("wrong", quick, within_s=0.1)
            await switching
            assert (tmp_path / "switch").read_text().startswith("other ")
            await agreed("other", slow, quick)

    run(test)


def test_what_takes_long_to_load_is_loaded_by_all_at_the_same_time(root, tmp_path):
    async def test() -> None:
        processes = [Process(root, tmp_path / "switch", SLOW_S) for _ in range(3)]
        async with following(*processes):
            await processes[0].variants.activate("other")
            await agreed("other", *processes)
        assert all(loaded.closed for process in processes for loaded in process.made)

    run(test)


@pytest.mark.parametrize("pause_s", [0.05, 3 * registry.FOLLOW_S])
def test_what_is_loaded_ahead_keeps_no_other_switch_waiting(root, tmp_path, pause_s):
    async def test() -> None:
        slow, quick = (Process(root, tmp_path / "switch", SLOW_S) for _ in range(2))
        async with following(slow, quick):
            switching = asyncio.create_task(slow.variants.activate("other"))
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            await quick.variants.activate("wrong")
            assert time.monotonic() - began < 1
            await switching
            await agreed("other", slow, quick)
            assert len(quick.made) == 3  # "other" once
        assert all(loaded.closed for process in (slow, quick) for loaded in process.made)

    run(test)


def test_many_switches_at_once_end_on_the_last_written_one(root, tmp_path):
    async def test() -> None:
        processes = [Process(root, tmp_path / "switch") for _ in range(4)]
        async with following(*processes):
            names = ["other", "wrong", "tiny"]
            await asyncio.gather(
                *(
                    process.variants.activate(names[(at + turn) % 3])
                    for turn in range(5)
                    for at, process in enumerate(processes)
                )
            )
            await agreed((tmp_path / "switch").read_text().split()[0], *processes)

    run(test)


def test_a_failure_to_follow_is_tried_again_until_it_works(root, tmp_path):
    async def test() -> None:
        first, second = (Process(root, tmp_path / "switch") for _ in range(2))
        second.broken.add("other")
        async with following(first, second):
            await first.variants.activate("other")
            await asyncio.sleep(1)
            assert second.variants.name == "tiny"
            second.broken.clear()
            await agreed("other", first, second)

    run(test)


def test_a_failure_to_follow_ends_with_another_switch(root, tmp_path):
    async def test() -> None:
        first, second = (Process(root, tmp_path / "switch") for _ in range(2))
        second.broken.add("other")
        async with following(first, second):
            await first.variants.activate("other")
            await asyncio.sleep(0.5)
            await first.variants.activate("wrong")
            await agreed("wrong", first, second)

    run(test)


def test_a_failure_of_any_kind_is_remembered_and_what_was_loaded_is_closed(root, tmp_path):
    async def test() -> None:
        process = Process(root, tmp_path / "gone" / "switch")
        with pytest.raises(VariantUnusable, match="LPR_SWITCH_FILE"):
            await process.variants.activate("wrong")
        assert [loaded.closed for loaded in process.made] == [False, True]
        process.broken.add("other")
        for _ in range(2):
            with pytest.raises(VariantUnusable, match="MemoryError"):
                await process.variants.get("other")
            process.broken.clear()  # yet it is not tried again by itself
        await process.variants.close()

    run(test)


def test_an_unexpected_failure_at_the_start_is_an_artifact_error(root, tmp_path):
    def load(artifact: Artifact) -> Loaded:
        raise RuntimeError("no thread can be started")

    with pytest.raises(ArtifactError, match="no thread can be started"):
        Variants(root, "tiny", load, True)  # type: ignore[arg-type]


def test_an_artifact_that_is_replaced_while_it_is_read_is_read_again(root):
    calls: list[Artifact] = []

    def load(artifact: Artifact) -> Loaded:
        calls.append(artifact)
        if len(calls) == 1:  # the files are replaced after they were checked
            folder = artifact.folder
            shutil.copytree(folder, folder.with_name(".new"))
            shutil.rmtree(folder)
            folder.with_name(".new").rename(folder)
            raise ArtifactError("its files differ")
        return Loaded(artifact)

    Variants(root, "tiny", load, True)  # type: ignore[arg-type]
    assert len(calls) == 2


def test_however_many_ask_the_folder_is_looked_at_once_and_a_manifest_read_once(root, tmp_path, monkeypatch):
    read, threads = [], set()

    def counted(folder: Path) -> object:
        read.append(folder.name)
        threads.add(threading.get_ident())
        return read_manifest(folder)

    read_manifest = artifact.read_manifest
    monkeypatch.setattr(artifact, "read_manifest", counted)
    monkeypatch.setattr(catalogue, "LOOK_S", 0.1)

    async def test() -> None:
        process = Process(root, tmp_path / "switch")
        del read[:]
        listings = await asyncio.gather(*(process.variants.listing() for _ in range(300)))
        assert len({id(listing) for listing in listings}) == 1
        assert sorted(read) == ["broken", "other", "tiny", "wrong"]
        assert len(threads) <= 2
        with pytest.raises(LprError):
            await process.variants.manifest("broken")
        await process.variants.manifest("other")
        await asyncio.sleep(0.2)
        assert await process.variants.listing() is listings[0]
        assert len(read) == 4
        shutil.copytree(root / "other", root / "another")
        await asyncio.sleep(0.2)
        assert b'"another"' in await process.variants.listing()
        assert read[4:] == ["another"]
        await process.variants.get("other")
        assert await process.variants.listing() != listings[0]
        await process.variants.close()

    run(test)
