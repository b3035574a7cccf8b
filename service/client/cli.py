"""`lpr read IMAGES...`: plates on the command line, read by a server or in the process itself."""

import argparse
import asyncio
import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from service.client import files
from service.errors import BadParameter, LprError, Refused
from service.settings import ClientSettings, Settings, faults, warnings
from service.wire import MIN_CONFIDENCE, Plate, Result

ALL_READ, SOME_NOT_READ, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit statuses
TOLD = 5  # of the paths that were named, where none can be read
AT_ONCE = 4  # requests under way, to a server
IMAGE_FAULTS = (400, 413, 415)  # statuses that say something of the image, not of the whole undertaking
COLUMNS = ("file", "text", "confidence", "formats", "valid_format", "note", "error")


@dataclass(frozen=True)
class Row:
    """One file: the plate on it, or a note why there is none, or the error that kept it from being read."""

    file: Path
    plate: Plate | None = None
    note: str | None = None
    error: str | None = None
    truncated: bool = False  # whether the file ends early


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 all read, 1 some files not, 2 none at all."""
    options = _parser().parse_args(arguments)
    try:
        return _read(options)
    except (LprError, ModuleNotFoundError) as error:
        print(f"lpr: {error}", file=sys.stderr)
        return REFUSED
    except ValidationError as error:
        print(f"lpr: {faults(error)[0]}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough, and Python is not to complain while it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ALL_READ


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lpr", description="Reads licence plates.")
    read = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "read",
        help="read the plates on images",
        description="Read one plate per image, a crop as a detector cuts it. Exit status: 0 if all files were read, "
        "1 if some could not be, 2 if none was tried. What was skipped in folders is told on stderr.",
    )
    read.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders that hold images")
    read.add_argument("--url", help="read on this server, by default LPR_URL; else in this process")
    read.add_argument("--variant", help="read with this variant instead of the server's or LPR_VARIANT")
    read.add_argument("--format", default="", metavar="NAME,...", help="read every plate as a text of these formats")
    read.add_argument(
        "--min-confidence",
        type=_share,
        default=MIN_CONFIDENCE,
        metavar="SHARE",
        help="leave out what is less sure; 0 leaves out nothing (default: %(default)s)",
    )
    read.add_argument("--top-k", type=int, choices=range(1, 11), default=3, metavar="N", help="candidates in --json")
    output = read.add_mutually_exclusive_group()
    output.add_argument("--csv", dest="show", action="store_const", const=_csv, help=f"write {','.join(COLUMNS)}")
    output.add_argument("--json", dest="show", action="store_const", const=_json, help="write a JSON object a line")
    read.set_defaults(show=_plain)
    return parser


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (share := float(text)) <= 1:
            return share
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")


def _read(options: argparse.Namespace) -> int:
    found = files.find(options.images)
    paths = [file.path for file in found.files if file.error is None]
    if not paths:
        raise BadParameter(" ".join(filter(None, (*_reasons(found), found.summary()))))
    settings = ClientSettings()
    url = options.url or settings.url
    read = _read_there(paths, url, settings, options) if url else _read_here(paths, options)
    rows = (Row(file.path, error=file.error) if file.error else next(read) for file in found.files)
    failed = _show(rows, len(found.files), options.show)
    if summary := found.summary():
        print(f"lpr: {len(found.files) - failed} read, {failed} not. {summary}", file=sys.stderr)
    return SOME_NOT_READ if failed else ALL_READ


def _reasons(found: files.Found) -> Iterator[str]:
    for file in found.files[:TOLD]:
        yield f"{file.path}: {file.error}"
    if len(found.files) > TOLD:
        yield f"And {len(found.files) - TOLD} more."


def _show(rows: Iterable[Row], total: int, show: Callable[[Row], str]) -> int:
    """Print each row as it comes; returns how many were not read."""
    failed = 0
    if show is _csv:
        print(",".join(COLUMNS))
    with tqdm(total=total, unit=" plates", disable=None) as bar:  # on stderr, where that is a terminal
        for row in rows:
            bar.write(show(row))
            if row.truncated:
                bar.write(f"lpr: {row.file} ends early: what is missing was read as grey.", file=sys.stderr)
            bar.update()
            failed += row.error is not None
    return failed


def _read_there(files: list[Path], url: str, settings: ClientSettings, options: argparse.Namespace) -> Iterator[Row]:
    """Rows in the order of the files, read by a server."""
    try:
        from service.client.client import Client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading on a server needs httpx: `make serve` installs it, or pip install '.[client]' in the repository "
            f"({error})."
        ) from error
    key = settings.api_key.get_secret_value() if settings.api_key else None
    formats = options.format.split(",") if options.format else ()
    with Client(url, api_key=key) as client, ThreadPoolExecutor(AT_ONCE) as pool:

        def read(file: Path) -> Row:
            try:
                answer = client.read(
                    file,
                    top_k=options.top_k,
                    formats=formats,
                    min_confidence=options.min_confidence,
                    variant=options.variant,
                )
            except OSError as error:
                return Row(file, error=_unreadable(error))
            except Refused as error:
                if error.status not in IMAGE_FAULTS:
                    raise
                return Row(file, error=str(error))
            return _row(file, answer.results[0])

        try:
            yield from pool.map(read, files)
        finally:
            pool.shutdown(cancel_futures=True)


def _read_here(files: list[Path], options: argparse.Namespace) -> Iterator[Row]:
    """Rows in the order of the files, read in this process."""
    from service import artifact
    from service.http.routes import compose
    from service.pipeline.budget import Budget
    from service.pipeline.recognizer import Recognizer
    from service.reading.plates import restrict

    for sentence in warnings():
        print(f"lpr: {sentence}", file=sys.stderr)
    settings = Settings(**({"variant": options.variant} if options.variant else {}))
    found = artifact.find(settings.artifacts, settings.variant)
    only = restrict(found.manifest.grammar, options.format or None)
    budget = Budget(settings.queue, settings.threads, settings.max_pixels)
    recognizer = Recognizer(found, settings.threads, budget, settings.max_pixels, deadline_s=math.inf)
    with asyncio.Runner() as runner:
        try:
            remaining = iter(files)
            while batch := list(islice(remaining, settings.max_images)):
                rows, images = _contents(batch, settings.max_bytes)
                outcomes, _ = runner.run(recognizer.recognize(list(images.values()), options.top_k, only))
                for file, outcome in zip(images, outcomes, strict=True):
                    rows[file] = _row(file, Result.model_validate(compose(None, outcome, options.min_confidence)))
                yield from (rows[file] for file in batch)
        finally:
            runner.run(recognizer.close())


def _contents(files: list[Path], limit: int) -> tuple[dict[Path, Row], dict[Path, bytes]]:
    """The rows of the files that cannot be opened or have over `limit` bytes, and the bytes of the others."""
    rows, images = {}, {}
    for file in files:
        try:
            if (size := file.stat().st_size) > limit:
                rows[file] = Row(file, error=f"The file has {size:,} bytes; LPR_MAX_BYTES allows {limit:,}.")
            else:
                images[file] = file.read_bytes()
        except OSError as error:
            rows[file] = Row(file, error=_unreadable(error))
    return rows, images


def _unreadable(error: OSError) -> str:
    return f"The file cannot be opened: {error.strerror}."


def _row(file: Path, result: Result) -> Row:
    error = result.error.detail if result.error else None
    return Row(file, next(iter(result.plates), None), result.note, error, result.truncated)


def _plain(row: Row) -> str:
    if row.plate is None:
        return f"{row.file}\t{row.error or row.note or 'no plate'}"
    formats = ", ".join(row.plate.formats) or "no known format"
    return f"{row.file}\t{row.plate.text}\t{100 * row.plate.confidence:.1f} %\t{formats}"


def _csv(row: Row) -> str:
    plate, line = row.plate, io.StringIO()
    told = (plate.text, plate.confidence, ",".join(plate.formats), plate.valid_format) if plate else ("", "", "", "")
    csv.writer(line, lineterminator="").writerow([row.file, *told, row.note, row.error])
    return line.getvalue()


def _json(row: Row) -> str:
    plates = [row.plate.model_dump()] if row.plate else []
    told = {"plates": plates, "truncated": row.truncated, "note": row.note, "error": row.error}
    return json.dumps({"file": str(row.file), **told}, ensure_ascii=False)
