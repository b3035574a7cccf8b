"""Registry of the installed variants: which one is active, which others are loaded beside it, how one follows another.

Each that is loaded is a `Recognizer` of its own. All methods belong to the event loop; loading happens on a thread.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from service import artifact, backends
from service.allocator import return_free
from service.artifact import Artifact, Manifest, ReadManifest
from service.errors import (
    ArtifactError,
    LprError,
    NoSuchVariant,
    Stopping,
    UnknownVariant,
    VariantUnusable,
    brief,
)
from service.pipeline.catalogue import Catalogue, Entries
from service.pipeline.recognizer import Recognizer
from service.wire import Installed, Listing

FOLLOW_S: Final = 0.2  # between looks at what other processes switched to
LONGEST_PAUSE_S: Final = 30.0  # between attempts to follow them
READINGS: Final = 3  # of an artifact that is replaced while it is read
SWITCH_BYTES: Final = 1000  # of LPR_SWITCH_FILE, more than any name takes

log = logging.getLogger(__name__)


def beginning(active: str, switch_file: Path | None) -> tuple[str, str]:
    """The variant that a server begins with, and the setting that names it: LPR_SWITCH_FILE, where the file holds a
    name, goes before LPR_VARIANT."""
    remembered = _recall(switch_file).partition(" ")[0]
    return (remembered, f"LPR_SWITCH_FILE ({switch_file})") if remembered else (active, "LPR_VARIANT")


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Have an ArtifactError begin with the setting that names the variant."""
    try:
        yield
    except ArtifactError as error:
        raise type(error)(f"{setting}: {error}") from error


def _recall(switch_file: Path | None) -> str:
    """What the switch file holds: the name of a variant, a blank, and a word that differs from switch to switch."""
    try:
        if switch_file is None:
            return ""
        with switch_file.open("rb") as file:
            return file.read(SWITCH_BYTES).decode()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ArtifactError(f"LPR_SWITCH_FILE {switch_file} cannot be read: {error}") from error


def _remember(switch_file: Path | None, name: str) -> str:
    """Write what `_recall` reads, in one step: of several processes, the last one's stays. Raises VariantUnusable."""
    switch = f"{name} {uuid.uuid4().hex}"
    if switch_file is None:
        return switch
    aside = switch_file.with_name(f".{switch_file.name}.{uuid.uuid4().hex}")
    try:
        aside.write_text(switch, encoding="utf-8")
        aside.replace(switch_file)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise VariantUnusable(f"The switch cannot be kept in LPR_SWITCH_FILE: {error.strerror}.") from error
    return switch


async def _leave(old: Recognizer) -> None:
    """Close a recognizer and give its memory back."""
    await old.close()
    await asyncio.to_thread(return_free)


class Variants:
    """The active recognizer, and those that requests chose, by the names of their variants."""

    def __init__(
        self,
        root: Path,
        active: str,
        load: Callable[[Artifact], Recognizer],
        choice: bool,
        also: str | None = None,
        switch_file: Path | None = None,
    ) -> None:
        """Load the `active` one of the artifacts below `root`, and perhaps another; raises ArtifactError.

        `choice` lets requests choose. `switch_file` keeps what is switched to: it goes before `active`, and all
        processes that share it switch together.
        """
        self.on_switch: Callable[[Recognizer], None] = lambda recognizer: None  # told of each new active one
        # Raises ArtifactError of a variant that must not become the active one.
        self.check: Callable[[ReadManifest], None] = lambda manifest: None
        self._switch_file = switch_file
        # The same for the variant that is being loaded in order to switch to it.
        self._next = switch_file and switch_file.with_name(f"{switch_file.name}.next")
        self._announced = _recall(self._next)
        self._remembered = _recall(switch_file)  # the switch that `name` came of; it changes together with that
        self._root = root
        self._load = load
        self._choice = choice
        self._also = also
        self._catalogue = Catalogue(root)
        self._listed: tuple[Entries, bytes] | None = None
        first, setting = beginning(active, switch_file)
        with naming(setting):
            self._loaded = {first: self._read(first, None)}
        if also and also != first:
            with naming("LPR_SHADOW"):
                self._loaded[also] = self._read(also, None)
        self.name = first
        self._refused: dict[str, str] = {}  # why it could not be loaded, so that not every request tries again
        self._loading = asyncio.Lock()  # one load at a time, but for what is loaded ahead
        self._ahead: tuple[str, asyncio.Task[None]] | None = None  # what another process is about to switch to
        self._leaving: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def active(self) -> Recognizer:
        """What reads the requests that choose nothing."""
        return self._loaded[self.name]

    @property
    def retired(self) -> bool:
        """Whether the server was asked to stop."""
        return self._stopping

    @property
    def alive(self) -> bool:
        """Whether no thread of inference has ended before its time."""
        return all(recognizer.alive for recognizer in self._loaded.values())

    def check_ready(self) -> None:
        """Raise Stopping where requests should not be sent here."""
        if self._stopping or not self.active.ready:
            raise Stopping("The server takes no more requests: send them to another one.")

    def retire(self) -> None:
        """Stop being ready, and load nothing more; what is loaded goes on until `close`."""
        self._stopping = True

    def choose(self, name: str | None) -> str:
        """The name of the variant that a request means; raises NoSuchVariant where it cannot have it."""
        if name is None or (name in self._loaded and (self._choice or name == self.name)):
            return name or self.name
        if not self._choice:
            raise NoSuchVariant(f"This server reads with {self.name} only, not with {name!r}.")
        if name not in artifact.variants(self._root):
            raise self._no_such(name)
        return name

    async def manifest(self, name: str) -> Manifest:
        """What the manifest of a variant says, loaded or not; raises NoSuchVariant or VariantUnusable."""
        if (loaded := self._loaded.get(self.choose(name))) is not None:
            return loaded.manifest
        found = (await self._catalogue.entries()).get(name)
        if found is None:  # it was installed a moment ago
            self._catalogue.expire()
            found = (await self._catalogue.entries()).get(name)
        if isinstance(found, Manifest):
            return found
        gone = "it reads no plates" if name in artifact.variants(self._root) else "it is being removed"
        reason = self._said(found) if found else gone
        raise VariantUnusable(f"The variant {name!r} cannot be used here: {reason}.") from found

    async def problem(self, name: str) -> str | None:
        """Why an installed variant cannot be used here, as far as is known before it is loaded."""
        return self._refused.get(name) or backends.lacking((await self.manifest(name)).backend)

    async def get(self, name: str) -> Recognizer:
        """The recognizer of an installed variant, which is loaded and proven first where it was not.

        Nothing is awaited between having it and returning it: what it admits at once, it also finishes. Raises
        VariantUnusable or Stopping.
        """
        while name not in self._loaded:
            async with self._loading:
                if reason := self._refused.get(name):
                    raise VariantUnusable(reason)
                await self._loaded_ahead(name)
                if name not in self._loaded:
                    self._loaded[name] = await self._made(name, None)
                    self._listed = None
        return self._loaded[name]

    @contextmanager
    def use(self, name: str) -> Iterator[Callable[[], Awaitable[Recognizer]]]:
        """For a request, `get` without the name: what is loaded stays open meanwhile, even if another variant becomes
        active. What is not loaded is loaded by the call, so that a body that cannot be read loads nothing."""
        if used := self._loaded.get(name):
            used.users.add(1)

        async def get() -> Recognizer:
            nonlocal used
            if used is None:
                used = await self.get(name)
                used.users.add(1)
            return used

        try:
            yield get
        finally:
            if used:
                used.users.add(-1)

    async def activate(self, name: str) -> None:
        """Load a variant beside the active one, or the same one anew if its files changed; prove it, then switch.

        What the old one has admitted it finishes. Raises NoSuchVariant, VariantUnusable or Stopping, and changes
        nothing then.
        """
        with suppress(ArtifactError):  # of a file that only saves time
            await self._prepare()  # what this one announces would hide it
        async with self._loading:
            await self._loaded_ahead(name)
            before = self._loaded.get(name)
            if name in artifact.variants(self._root):
                with suppress(VariantUnusable):  # whatever it is, the switch itself will tell
                    self._announced = await asyncio.to_thread(_remember, self._next, name)
            recognizer = await self._checked(name, before)
            try:
                switch = await asyncio.to_thread(_remember, self._switch_file, name)
            except VariantUnusable:
                if recognizer is not before:
                    await recognizer.close()
                raise
            self._switch(name, before, recognizer, switch)

    async def follow(self) -> None:
        """Switch to what another process that shares the switch file switched to, until cancelled.

        What fails is tried again, after ever longer pauses, until it works or the switch file changes. What another
        process loads, this one loads at the same time, so that all switch within moments however long that takes.
        """
        failed, pause, again = "", 0.0, 0.0
        while self._switch_file:
            await asyncio.sleep(FOLLOW_S)
            found = ""
            try:
                await self._prepare()
                found = await asyncio.to_thread(_recall, self._switch_file)
                if found in ("", self._remembered) or (found == failed and time.monotonic() < again):
                    continue
                await self._follow()
            except Exception as error:  # whatever it is, it must not end the following
                pause = min(2 * pause, LONGEST_PAUSE_S) if found == failed else FOLLOW_S
                failed, again = found, time.monotonic() + pause
                log.warning("Another process switched the variant, and this one could not follow: %s", error)

    async def _prepare(self) -> None:
        """Begin to load what another process has begun to load in order to switch to it; nothing waits for that."""
        announced = await asyncio.to_thread(_recall, self._next)
        busy = self._loading.locked() or (self._ahead is not None and not self._ahead[1].done())
        if announced not in ("", self._announced) and not busy:
            self._announced = announced
            name = announced.partition(" ")[0]
            self._ahead = name, asyncio.create_task(self._load_ahead(name))

    async def _load_ahead(self, name: str) -> None:
        if name not in self._loaded:
            with suppress(LprError):  # it is tried again if it is switched to
                self._loaded[name], self._listed = await self._made(name, None), None

    async def _loaded_ahead(self, name: str) -> None:
        """Wait while `name` is being loaded ahead."""
        if self._ahead is not None and self._ahead[0] == name:
            await asyncio.wait([self._ahead[1]])

    async def _follow(self) -> None:
        """Switch to what the switch file says, as soon as nothing else is being loaded.

        It is read again then: a switch of this process may have been written in between, and the last one counts.
        """
        async with self._loading:
            found = await asyncio.to_thread(_recall, self._switch_file)
            if found in ("", self._remembered):
                return
            name = found.partition(" ")[0]
            await self._loaded_ahead(name)
            before = self._loaded.get(name)
            self._switch(name, before, await self._checked(name, before), found)

    def _switch(self, name: str, before: Recognizer | None, recognizer: Recognizer, switch: str) -> None:
        """From here on new requests go to `recognizer`; `before` is what was loaded under its name.

        `switch` is what the switch file says of it.
        """
        self._remembered = switch
        self._refused.pop(name, None)
        self._listed = None
        self._catalogue.expire()
        leaving = [old for old in {before, self.active} if old is not None and old is not recognizer]
        if name != self.name:
            del self._loaded[self.name]
        self._loaded[name], self.name = recognizer, name
        for old in leaving:
            task = asyncio.create_task(_leave(old))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        self.on_switch(recognizer)

    async def close(self) -> None:
        """Finish what was admitted, then free all engines."""
        self.retire()
        async with self._loading:
            if self._ahead is not None:
                await asyncio.wait([self._ahead[1]])
            await asyncio.gather(*self._leaving, *(recognizer.close() for recognizer in self._loaded.values()))

    async def listing(self) -> bytes:
        """What is installed, with what was measured of it and whether it can be used: a `Listing` as JSON.

        It is made again only where something changed.
        """
        entries = await self._catalogue.entries()
        if self._listed is None or self._listed[0] is not entries:
            described = [self._describe(name, entry) for name, entry in entries.items()]
            listing = Listing(active=self.name, shadow=self._also, variants=described)
            self._listed = entries, listing.model_dump_json().encode()
        return self._listed[1]

    async def _checked(self, name: str, loaded: Recognizer | None) -> Recognizer:
        """As `_made`, of a variant that may become the active one."""
        recognizer = await self._made(name, loaded)
        try:
            self.check(recognizer.manifest)
        except ArtifactError as error:
            if recognizer is not loaded:
                await recognizer.close()
            raise VariantUnusable(f"The variant {name!r} cannot become the active one: {self._said(error)}.") from error
        return recognizer

    async def _made(self, name: str, loaded: Recognizer | None) -> Recognizer:
        """A recognizer of the files as they are now: `loaded`, if it is of the same ones."""
        if self._stopping:
            raise Stopping("The server is shutting down: send the request to another one.")
        try:
            return await asyncio.to_thread(self._read, name, loaded)
        except UnknownVariant as error:
            raise self._no_such(name) from error
        except ArtifactError as error:
            reason = f"The variant {name!r} cannot be used here: {self._said(error)}."
            log.warning("%s cannot be used: %s", name, error)
            if name not in self._loaded:
                self._refused[name], self._listed = reason, None
            raise VariantUnusable(reason) from error

    def _read(self, name: str, loaded: Recognizer | None) -> Recognizer:
        """As `_made`, on any thread. A failure of any kind is an ArtifactError.

        Where the artifact is replaced while it is read, it is read again.
        """
        for remaining in reversed(range(READINGS)):
            before = artifact.stamp(self._root / name)
            try:
                found = artifact.find(self._root, name)
                return loaded if loaded is not None and loaded.manifest == found.manifest else self._load(found)
            except Exception as error:
                if remaining and artifact.stamp(self._root / name) != before:
                    continue
                if isinstance(error, ArtifactError):
                    raise
                what = f"{type(error).__name__}: {brief(error)}"
                raise ArtifactError(f"{self._root / name} cannot be loaded ({what})") from error
        raise AssertionError("the last reading returns or raises")

    def _no_such(self, name: str) -> NoSuchVariant:
        known = ", ".join(artifact.readers(self._root))
        return NoSuchVariant(f"There is no variant {name!r}; installed are {known}.")

    def _describe(self, name: str, entry: Manifest | ArtifactError) -> Installed:
        if isinstance(entry, ArtifactError):
            return Installed(variant=name, problem=self._said(entry))
        problem = self._refused.get(name) or backends.lacking(entry.backend)
        return Installed(
            variant=name,
            version=entry.version,
            backend=entry.backend,
            created=entry.provenance.created,
            measured=entry.measured,
            active=name == self.name,
            loaded=name in self._loaded,
            choosable=name == self.name or (self._choice and problem is None),
            problem=problem,
        )

    def _said(self, error: ArtifactError) -> str:
        """The error for people elsewhere, whom the server's folders do not concern."""
        return str(error).replace(f"{self._root}/", "").removesuffix(".")
