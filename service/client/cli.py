"""Command line: `lpr read` reads plates, on a server or in the process itself; `lpr serve` is the server; `lpr watch`
reads those that pass in videos.

`lpr redact` and `lpr mcp` have files of their own.

What stands in a file's name, or comes from a server, is printed with control characters escaped.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError
from tqdm import tqdm

from service.client import assistant, bulk, files, redacting, watching
from service.decoders import filtered
from service.errors import BadParameter, LprError, Refused, printable
from service.settings import ClientSettings, Settings, faults, listing, warnings
from service.wire import Plate, Result

if TYPE_CHECKING:
    from service.reader import ImageResult

ALL_READ, SOME_NOT_READ, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit statuses
TOLD = 5  # of the paths that were named, where none can be read
AT_ONCE = 4  # requests under way, to a server
IMAGE_FAULTS = (400, 413, 415)  # statuses that say something of the image, not of the whole undertaking
COLUMNS = (
    *("file", "plate", "text", "confidence", "formats", "valid_format"),
    *("found", "rows", "colour", "cut", "corners", "note", "error", "region"),
)


@dataclass(frozen=True)
class Row:
    """One plate of a file; or a file without one, with a note why, or the error that kept it from being read."""

    file: Path
    plate: Plate | None = None
    number: int = 1  # of the plate in its file
    note: str | None = None
    error: str | None = None
    truncated: bool = False  # whether the file ends early


class Unwritable(LprError):
    """Standard output takes nothing more."""


class Parser(argparse.ArgumentParser):
    """Refuses arguments as argparse does, and prints none of their control characters."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit."""
        super().error(printable(message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: that of the server, or 0 all read, 1 some files not, 2 none."""
    options = _parser().parse_args(arguments)
    try:
        with nullcontext() if options.run is _serve else filtered():  # the server has a guard of its own
            return int(options.run(options))
    except (LprError, ModuleNotFoundError) as error:
        return _refuse(str(error))
    except ValidationError as error:
        return _refuse(faults(error)[0])
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        _drop_output()
        return ALL_READ


def _refuse(message: str) -> int:
    print("lpr:", "\n".join(map(printable, message.split("\n"))), file=sys.stderr)
    return REFUSED


def _drop_output() -> None:
    """Let Python not complain, while it ends, of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="lpr", description="Reads licence plates.")
    parser.add_argument("--version", action="version", version=f"lpr {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve over HTTP",
        description="Reads licence plates over HTTP, as python -m service does. All that can be chosen is in "
        "environment variables:",
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.set_defaults(run=_serve)
    read = commands.add_parser(
        "read",
        help="read the plates on images",
        description="Read the plates on photographs, or on crops of one plate. A row for each plate; one row for an "
        "image without. Exit status: 0 if all files were read, 1 if some could not be, 2 if none was tried. What was "
        "skipped in folders is told on stderr.",
    )
    read.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders that hold images")
    read.add_argument("--url", help="read on this server, by default LPR_URL; else in this process")
    _add_reading(read, variant="the server's or LPR_VARIANT", candidates="of a plate in --json")
    output = read.add_mutually_exclusive_group()
    output.add_argument("--csv", dest="show", action="store_const", const=_csv, help=f"write {','.join(COLUMNS)}")
    output.add_argument("--json", dest="show", action="store_const", const=_json, help="write a JSON object a line")
    read.set_defaults(run=_read, show=_plain)
    _add_reading(bulk.add_command(commands), variant="LPR_VARIANT", candidates="of a plate")
    redacting.add_command(commands)
    assistant.add_command(commands)
    watching.add(commands)
    return parser


def _add_reading(parser: argparse.ArgumentParser, variant: str, candidates: str) -> None:
    """Options of how to read, the same for all commands, but for the default variant and where candidates are told."""
    parser.add_argument("--variant", help=f"read with this variant instead of {variant}")
    parser.add_argument("--format", default="", metavar="NAME,...", help="read every plate as a text of these formats")
    parser.add_argument("--region", default="", metavar="CODE,...", help="read plates of these countries alone: de,gb")
    parser.add_argument(
        "--min-confidence",
        type=_share,
        metavar="SHARE",
        help="leave out texts that are less sure; 0 leaves out nothing (default: leave out what is too unsure)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        choices=range(1, 11),
        default=3,
        metavar="N",
        help=f"candidates {candidates}, from 1 to 10 (default: %(default)s)",
    )
    parser.add_argument("--no-find", dest="find", action="store_false", help="read each image as a crop of one plate")


def _serve(_: argparse.Namespace) -> int:
    from service.__main__ import run

    return run()


def _version() -> str:
    """The version of pyproject.toml, as it was installed."""
    try:
        return version("lpr")
    except PackageNotFoundError:
        return "(not installed)"


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
    rows = ([Row(file.path, error=file.error)] if file.error else next(read) for file in found.files)
    failed = _show(rows, len(found.files), options.show)
    if summary := found.summary():
        print(f"lpr: {len(found.files) - failed} read, {failed} not. {printable(summary)}", file=sys.stderr)
    return SOME_NOT_READ if failed else ALL_READ


def _reasons(found: files.Found) -> Iterator[str]:
    for file in found.files[:TOLD]:
        yield printable(f"{file.path}: {file.error}")
    if len(found.files) > TOLD:
        yield f"And {len(found.files) - TOLD} more."


def _show(files: Iterable[list[Row]], total: int, show: Callable[[Row], str]) -> int:
    """Print the rows of each file as they come; returns how many files were not read."""
    if sys.stdout is None:
        raise Unwritable("Standard output is closed: redirect it to a file.")
    failed = 0
    with tqdm(total=total, unit=" images", disable=None) as bar:  # on stderr, where that is a terminal
        if show is _csv:
            _write(bar, ",".join(COLUMNS))
        for rows in files:
            for row in rows:
                _write(bar, show(row))
            if rows[0].truncated:
                file = printable(str(rows[0].file))
                bar.write(f"lpr: {file} ends early: what is missing was read as grey.", file=sys.stderr)
            bar.update()
            failed += rows[0].error is not None
    return failed


def _write(bar: "tqdm[NoReturn]", line: str) -> None:
    try:
        bar.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise Unwritable(f"The output cannot be written: {error.strerror}.") from error


def _read_there(
    files: list[Path], url: str, settings: ClientSettings, options: argparse.Namespace
) -> Iterator[list[Row]]:
    """The rows of each file, in the order of the files, read by a server."""
    try:
        from service.client import Client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading on a server needs httpx, which the extra `client` installs: pip install httpx ({error})."
        ) from error
    key = settings.api_key.get_secret_value() if settings.api_key else None
    formats = options.format.split(",") if options.format else ()
    regions = options.region.split(",") if options.region else ()
    with Client(url, api_key=key) as client, ThreadPoolExecutor(AT_ONCE) as pool:

        def read(file: Path) -> list[Row]:
            try:
                answer = client.read(
                    file,
                    top_k=options.top_k,
                    formats=formats,
                    regions=regions,
                    min_confidence=options.min_confidence,
                    variant=options.variant,
                    find=None if options.find else False,
                )
            except OSError as error:
                return [Row(file, error=_unreadable(error))]
            except Refused as error:
                if error.status not in IMAGE_FAULTS:
                    raise
                return [Row(file, error=str(error))]
            (result,) = answer.results
            return _rows(file, result, result.error.detail if result.error else None)

        try:
            yield from pool.map(read, files)
        finally:
            pool.shutdown(cancel_futures=True)


def _read_here(files: list[Path], options: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of each file, in the order of the files, read in this process."""
    from service.reader import Reader

    for sentence in warnings():
        print(f"lpr: {sentence}", file=sys.stderr)
    threads = min(Settings().threads, len(files))
    asked: dict[str, Any] = {
        "top_k": options.top_k,
        "formats": [options.format] if options.format else [],
        "regions": [options.region] if options.region else [],
        "min_confidence": options.min_confidence,
        "find": options.find,
    }
    with Reader(options.variant, finder=None if options.find else "", threads=threads) as reader:
        for file, result in zip(files, reader.read_all(files, **asked), strict=True):
            error = _unreadable(result.error) if isinstance(result.error, OSError) else result.error
            yield _rows(file, result, str(error) if error else None)


def _unreadable(error: OSError) -> str:
    return f"The file cannot be opened: {error.strerror}."


def _rows(file: Path, result: "Result | ImageResult", error: str | None) -> list[Row]:
    """A row for each plate; at least one."""
    rows = [Row(file, plate, number, truncated=result.truncated) for number, plate in enumerate(result.plates, start=1)]
    return rows or [Row(file, note=result.note, error=error, truncated=result.truncated)]


def _plain(row: Row) -> str:
    told = [row.error or row.note or "no plate"]
    if row.plate:
        formats = ", ".join(row.plate.formats) or "no known format"
        told = [row.plate.text or "no text", f"{100 * row.plate.confidence:.1f} %", formats]
        if row.plate.found is not None:
            told.append(_seen(row.number, row.plate, row.plate.found))
        if row.plate.region:
            told.append(f"{row.plate.region.code} {100 * row.plate.region.probability:.0f} %")
    return "\t".join(map(printable, (str(row.file), *told)))


def _seen(number: int, plate: Plate, found: float) -> str:
    """What the finder says of a plate."""
    told = [f"plate {number}", f"found {100 * found:.1f} %", f"rows {plate.rows}", str(plate.colour)]
    return ", ".join([*told, *(["cut"] if plate.cut else []), f"at {_corners(plate)}"])


def _corners(plate: Plate) -> str:
    return " ".join(f"{x:g} {y:g}" for x, y in plate.box)


def _csv(row: Row) -> str:
    plate, line = row.plate, io.StringIO()
    told: dict[str, Any] = {"file": row.file, "note": row.note, "error": row.error}
    if plate:
        told |= plate.model_dump(include=set(COLUMNS)) | {"plate": row.number, "formats": ",".join(plate.formats)}
        told["corners"] = _corners(plate)
        told["region"] = plate.region and plate.region.code
    fields = ["" if told.get(column) is None else printable(str(told[column])) for column in COLUMNS]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _json(row: Row) -> str:
    plate = row.plate.model_dump() if row.plate else dict.fromkeys(Plate.model_fields)
    told = {"plate": row.number if row.plate else None, **plate}
    told |= {"truncated": row.truncated, "note": row.note, "error": row.error}
    return printable(json.dumps({"file": str(row.file), **told}, ensure_ascii=False))
