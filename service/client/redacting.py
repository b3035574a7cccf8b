"""Command `lpr redact`: a folder of images again, with their plates covered, in this process or on a server."""

import argparse
import os
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from service.client import files
from service.errors import BadParameter, InputError, Refused, printable
from service.settings import ClientSettings, Settings

if TYPE_CHECKING:
    from service.client.client import Covered
    from service.pipeline.items import Redacted

ALL, SOME_NOT = 0, 1  # exit statuses
AS_JPEG: Final = (".heic", ".heif")  # what nothing here can write
HOW: Final = ("blur", "pixelate", "fill")
AT_ONCE: Final = 4  # requests under way, to a server
IMAGE_FAULTS: Final = (400, 413, 415)  # statuses that say something of the image, not of the whole undertaking

Cover = Callable[[Path], "Redacted | Covered"]  # a file to its image with the plates covered


@dataclass(frozen=True)
class Done:
    """What became of a file: how many places were covered, or why none."""

    file: Path
    places: int = 0
    truncated: bool = False  # whether the file ends early
    error: str | None = None


def add_command(commands: Any) -> None:
    """Add the command to those of `lpr`."""
    parser = commands.add_parser(
        "redact",
        help="cover the plates on images",
        description="Write the images of FOLDER to OUT with their plates covered, under the same names, without EXIF "
        "and location. A file that is in OUT already is left as it is, so that the same command goes on after an "
        "interruption. A plate may be missed, and places without a plate are covered too: docs/redacting.md tells how "
        "many. Exit status: 0 if all files were done, 1 if some could not be, 2 if none was tried.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, outside of FOLDER")
    parser.add_argument("--how", choices=HOW, default="blur", help="how plates are covered (default: %(default)s)")
    parser.add_argument("--url", help="on this server, by default LPR_URL; else in this process")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Redact a folder; returns the exit status. Raises LprError where none can be tried."""
    top, out = options.folder, options.out
    if not top.is_dir():
        raise BadParameter(f"{top} is no folder: name one that holds images.")
    if out.resolve().is_relative_to(top.resolve()):
        raise BadParameter(f"{out} lies in {top}: name a folder outside of it.")
    found = files.find([top])
    targets, clashes = _targets([file.path for file in found.files if file.error is None], top, out)
    waiting = [(file, target) for file, target in targets if not _is_there(target)]
    faults = [Done(file.path, error=file.error) for file in found.files if file.error is not None] + clashes
    with ExitStack() as stack, tqdm(total=len(found.files), unit=" images", disable=None) as bar:
        bar.update(len(targets) - len(waiting))
        done = list(_reported(faults, bar))
        if waiting:
            _check_writable(out)
            cover, threads = coverer(options, stack)
            done += _reported(_written(waiting, cover, threads), bar)
    failed = sum(one.error is not None for one in done)
    there = f", {len(targets) - len(waiting)} were there already" if len(waiting) < len(targets) else ""
    places = sum(one.places for one in done)
    told = f"lpr: {len(done) - failed} redacted with {places} places covered{there}, {failed} not."
    print(" ".join(filter(None, (told, printable(found.summary() or "")))), file=sys.stderr)
    return SOME_NOT if failed else ALL


def _check_writable(out: Path) -> None:
    """Make the folder; raises BadParameter where no file can be written in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except FileExistsError:
        raise BadParameter(f"{out} is no folder: name one to write to.") from None
    except OSError as error:
        raise BadParameter(f"{out} cannot be written to: {error.strerror}.") from error


def target_of(file: Path, top: Path, out: Path) -> Path:
    """Where the redacted image of a file below `top` is written."""
    target = out / file.relative_to(top)
    return target.with_name(f"{target.name}.jpg") if target.suffix.lower() in AS_JPEG else target


def _targets(paths: Iterable[Path], top: Path, out: Path) -> tuple[list[tuple[Path, Path]], list[Done]]:
    """The files that have a target of their own, with it, and an error for each of the others.

    None of these is written: if one was, a later run would take the target for the image of all of them.
    """
    sources: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        sources[target_of(path, top, out)].append(path)
    alone = [(rivals[0], target) for target, rivals in sources.items() if len(rivals) == 1]
    clashes = [
        Done(file, error=f"{target} would be written for {' and for '.join(map(str, rivals))}: rename one of these.")
        for target, rivals in sources.items()
        for file in rivals
        if len(rivals) > 1
    ]
    return alone, clashes


def _is_there(target: Path) -> bool:
    """Whether something has the name already; a folder of that name is no redacted image, and writing will say so."""
    return os.path.lexists(target) and not target.is_dir()


def coverer(options: argparse.Namespace, stack: ExitStack) -> tuple[Cover, int]:
    """What covers the plates of a file, on a server or here, and how many files at a time."""
    settings = ClientSettings()
    if url := options.url or settings.url:
        from service.client import Client

        key = settings.api_key.get_secret_value() if settings.api_key else None
        client = stack.enter_context(Client(url, api_key=key))
        return lambda file: client.redact(file, options.how), AT_ONCE
    from service.reader import Reader

    threads = Settings().threads
    reader = stack.enter_context(Reader(threads=threads))
    return lambda file: reader.redact(file, options.how), threads + 1


def write_new(target: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all; raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{token_hex(8)}.part")
    file = part.open("xb")  # opens nothing that is there, and follows no link
    try:
        with file:
            file.write(data)
        os.link(part, target)  # unlike a renaming, it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(17, "File exists", str(target)) from None
        part.rename(target)
        return
    finally:
        part.unlink(missing_ok=True)


def _written(waiting: Iterable[tuple[Path, Path]], cover: Cover, threads: int) -> Iterator[Done]:
    """Cover and write, in the order of the files, only a few ahead."""

    def work(file: Path, target: Path) -> Done:
        try:
            covered = cover(file)
        except OSError as error:
            return Done(file, error=f"{error.strerror or error}.")
        except InputError as error:
            return Done(file, error=str(error))
        except Refused as error:
            if error.status not in IMAGE_FAULTS:
                raise
            return Done(file, error=str(error))
        try:
            write_new(target, covered.data)
        except OSError as error:
            return Done(file, error=f"{target} cannot be written: {error.strerror or error}.")
        return Done(file, covered.plates, covered.truncated)

    ahead: deque[Future[Done]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for file, target in waiting:
            ahead.append(pool.submit(work, file, target))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _reported(done: Iterable[Done], bar: Any) -> Iterator[Done]:
    for one in done:
        if one.error is not None:
            bar.write(printable(f"lpr: {one.file}: {one.error}"), file=sys.stderr)
        if one.truncated:
            bar.write(printable(f"lpr: {one.file} ends early: what is missing is grey."), file=sys.stderr)
        bar.update()
        yield one
