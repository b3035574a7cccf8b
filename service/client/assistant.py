"""Command `lpr mcp`: tools for assistants over the Model Context Protocol, on stdin and stdout (the extra `mcp`).

An assistant may be led by what it reads, and by pixels that others chose. So its tools see the files of one folder
alone, no hidden ones among them; they overwrite none, and what they write has the name of an image.
"""

import argparse
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from service.client import files, redacting
from service.errors import BadParameter, LprError, quoted
from service.settings import ClientSettings, Settings
from service.wire import Plate

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from service.client.client import Covered

INSTRUCTIONS = "Reads licence plates on images, and covers them. Files are named by their paths below {folder}."


class Reading(BaseModel):
    """The plates on an image, the largest first, or a note why there is none.

    `truncated`: the file ended early, and what is missing was read as grey.
    """

    plates: list[Plate]
    note: str | None = None
    truncated: bool = False


class Written(BaseModel):
    """The file that was written, how many places are covered in it, and whether it is grey where `file` ended early.

    More places may be covered than there are plates.
    """

    file: str
    places: int
    truncated: bool


Read = Callable[[Path], Reading]
Cover = Callable[[Path, Any], "Covered"]


def add_command(commands: Any) -> None:
    """Add the command to those of `lpr`."""
    parser = commands.add_parser(
        "mcp",
        help="serve assistants over the Model Context Protocol",
        description="Serve the tools `read` and `redact` to an assistant on stdin and stdout. They read and write "
        "files below FOLDER alone, no hidden ones, and overwrite none.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: this folder")
    parser.add_argument("--url", help="read on this server, by default LPR_URL; else in this process")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until stdin ends."""
    if not options.folder.is_dir():
        raise BadParameter(f"{options.folder} is no folder.")
    with ExitStack() as stack:
        server(options.folder.resolve(), *engines(options.url or ClientSettings().url, stack)).run("stdio")
    return 0


def server(folder: Path, read_plates: Read, cover_plates: Cover) -> "MCPServer":
    """A server of the tools over the files below a folder."""
    try:
        from mcp.server import MCPServer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"Assistants need the extra `mcp`: pip install 'lpr[mcp]' ({error}).") from error
    tools = MCPServer("lpr", instructions=INSTRUCTIONS.format(folder=folder), log_level="WARNING")

    @tools.tool()
    def read(file: str) -> Reading:
        """Read the licence plates on an image file: texts, confidences, corners, colours."""
        with _told(file):
            return read_plates(_source(folder, file))

    @tools.tool()
    def redact(file: str, out: str, how: Literal["blur", "pixelate", "fill"] = "blur") -> Written:
        """Write an image file again, as the new file `out` of the same format, with its licence plates covered and
        without EXIF."""
        with _told(file):
            source, target = _source(folder, file), _target(folder, out)
            covered = cover_plates(source, how)
            _check_suffix(out, target, files.SUFFIXES_OF.get(covered.media_type, ()))
        with _told(out):
            redacting.write_new(target, covered.data)
        return Written(file=str(target.relative_to(folder)), places=covered.plates, truncated=covered.truncated)

    return tools


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Tell the assistant what is wrong with a file: of any error but ToolError, the package hides the message."""
    from mcp.server.mcpserver.exceptions import ToolError

    try:
        yield
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror or error}.") from error
    except LprError as error:
        raise ToolError(str(error)) from error


def inside(folder: Path, name: str) -> Path:
    """The path of a file below a folder, links resolved; raises BadParameter for any other, and for a hidden one."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a null character
        raise BadParameter(f"{quoted(name)} is no path: {error}.") from error
    if folder not in path.parents:
        raise BadParameter(f"{name} does not lie below {folder}: name a file that does.")
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        raise BadParameter(f"{name} is hidden: name a file without a dot before its name or its folders' names.")
    return path


def _source(folder: Path, name: str) -> Path:
    """The path of a file to read: a regular one, because whoever opens a pipe may wait for ever."""
    path = inside(folder, name)
    if fault := files.fault(path):
        raise BadParameter(f"{name}: {fault}")
    return path


def _target(folder: Path, name: str) -> Path:
    """The path of a new image.

    An uncompressed image may hold any text as its pixels, so no name is taken under which a program would obey it.
    """
    path = inside(folder, name)
    _check_suffix(name, path, [suffix for suffixes in files.SUFFIXES_OF.values() for suffix in suffixes])
    if os.path.lexists(path):
        raise BadParameter(f"{name} exists already: name a new file.")
    return path


def _check_suffix(name: str, path: Path, fitting: Collection[str]) -> None:
    if path.suffix.lower() not in fitting:
        raise BadParameter(f"{name} does not fit the image that is written: end it in {', '.join(fitting)}.")


def engines(url: str | None, stack: ExitStack) -> tuple[Read, Cover]:
    """What reads and covers, on a server or in this process; loaded when it is first asked for."""
    if url:
        return _there(url, stack)

    threads = Settings().threads

    @cache
    def reader() -> Any:
        from service.reader import Reader

        return stack.enter_context(Reader(threads=threads))

    def read(file: Path) -> Reading:
        (result,) = reader().read_all([file])
        if result.error:
            raise result.error
        return Reading(plates=result.plates, note=result.note, truncated=result.truncated)

    def cover(file: Path, how: Any) -> "Covered":
        from service.client.client import Covered

        done = reader().redact(file, how)
        return Covered(done.data, done.kind.media_type, done.plates, done.truncated)

    return read, cover


def _there(url: str, stack: ExitStack) -> tuple[Read, Cover]:
    from service.client import Client

    key = ClientSettings().api_key
    client = stack.enter_context(Client(url, api_key=key.get_secret_value() if key else None))

    def read(file: Path) -> Reading:
        (result,) = client.read(file).results
        return Reading(plates=result.plates, note=result.note, truncated=result.truncated)

    return read, client.redact
