"""Command `lpr mcp`: tools for assistants over the Model Context Protocol, on stdin and stdout (the extra `mcp`).

An assistant may be led by what it reads, so its tools see the files of one folder alone and overwrite none.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from service.client import redacting
from service.errors import BadParameter, LprError, quoted
from service.settings import ClientSettings, Settings
from service.wire import Plate

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from service.client import client
    from service.pipeline.items import Redacted

INSTRUCTIONS = "Reads licence plates on images, and covers them. Files are named by their paths below {folder}."


class Reading(BaseModel):
    """The plates on an image, the largest first, or a note why there is none."""

    plates: list[Plate]
    note: str | None = None


class Covered(BaseModel):
    """The file that was written, how many plates are covered in it, and whether it is grey where `file` ended early."""

    file: str
    plates: int
    truncated: bool


Read = Callable[[Path], Reading]
Cover = Callable[[Path, Any], "Redacted | client.Covered"]


def add_command(commands: Any) -> None:
    """Add the command to those of `lpr`."""
    parser = commands.add_parser(
        "mcp",
        help="serve assistants over the Model Context Protocol",
        description="Serve the tools `read` and `redact` to an assistant on stdin and stdout. They read and write "
        "files below FOLDER alone, and overwrite none.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: this folder")
    parser.add_argument("--url", help="read on this server, by default LPR_URL; else in this process")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until stdin ends."""
    if not options.folder.is_dir():
        raise BadParameter(f"{options.folder} is no folder.")
    with ExitStack() as stack:
        server(options.folder.resolve(), *_engines(options.url or ClientSettings().url, stack)).run("stdio")
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
            return read_plates(inside(folder, file))

    @tools.tool()
    def redact(file: str, out: str, how: Literal["blur", "pixelate", "fill"] = "blur") -> Covered:
        """Write an image file again, as the new file `out`, with its licence plates covered and without EXIF."""
        with _told(file):
            source, target = inside(folder, file), inside(folder, out)
            if os.path.lexists(target):
                raise BadParameter(f"{out} exists already: name a new file.")
            covered = cover_plates(source, how)
        with _told(out):
            redacting.write_new(target, covered.data)
        return Covered(file=str(target.relative_to(folder)), plates=covered.plates, truncated=covered.truncated)

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
    """The path of a file below a folder, links resolved; raises BadParameter for any other."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a null character
        raise BadParameter(f"{quoted(name)} is no path: {error}.") from error
    if folder not in path.parents:
        raise BadParameter(f"{name} does not lie below {folder}: name a file that does.")
    return path


def _engines(url: str | None, stack: ExitStack) -> tuple[Read, Cover]:
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
        return Reading(plates=result.plates, note=result.note)

    return read, lambda file, how: reader().redact(file, how)


def _there(url: str, stack: ExitStack) -> tuple[Read, Cover]:
    from service.client import Client

    key = ClientSettings().api_key
    client = stack.enter_context(Client(url, api_key=key.get_secret_value() if key else None))

    def read(file: Path) -> Reading:
        (result,) = client.read(file).results
        return Reading(plates=result.plates, note=result.note)

    return read, client.redact
