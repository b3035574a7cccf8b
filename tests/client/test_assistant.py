"""`lpr mcp`: the tools, asked by the client of the package `mcp` over stdio, on local files and on a server."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError

from service.client.assistant import Reading, inside, server
from service.client.client import Covered
from service.errors import BadParameter, UndecodableImage
from service.settings import REPOSITORY, Settings
from tests.support.images import encode
from tests.support.photographed import BOTH, NEAR, detail, pixels
from tests.support.photographs import TEXTS
from tests.support.servers import running

PROGRAM = "import sys; from service.client.cli import main; sys.exit(main())"


async def asked(folder: Path, *arguments: str) -> tuple[list[str], list[Any]]:
    """The names of the tools, and the answers to some calls of them."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-c", PROGRAM, "mcp", str(folder), *arguments],
        cwd=REPOSITORY,
        env={"LPR_THREADS": "1"},
    )
    calls = [
        ("read", {"file": "street.png"}),
        ("redact", {"file": "street.png", "out": "deeper/covered.png", "how": "fill"}),
        ("redact", {"file": "street.png", "out": "street.png"}),
        ("read", {"file": "../secret.png"}),
        ("read", {"file": "link.png"}),
        ("read", {"file": "none.png"}),
        ("read", {"file": "text.png"}),
    ]
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        return [tool.name for tool in tools], [await client.call_tool(name, given) for name, given in calls]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photograph, what is none, and a link that leads out."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "street.png").write_bytes(encode(".png", BOTH))
    (folder / "text.png").write_text("text")
    (tmp_path / "secret.png").write_bytes(encode(".png", BOTH))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "there"])
def test_the_tools(folder, where):
    before = (folder / "street.png").read_bytes()
    if where == "here":
        tools, answers = asyncio.run(asked(folder))
    else:
        with running(Settings(threads=1)) as url:
            tools, answers = asyncio.run(asked(folder, "--url", url))
    assert tools == ["read", "redact"]
    read, covered, *refused = answers
    assert not read.is_error, read
    assert [plate["text"] for plate in read.structured_content["plates"]] == [TEXTS["blue"], TEXTS["yellow"]]
    assert not covered.is_error, covered
    assert covered.structured_content["file"] == "deeper/covered.png"
    assert covered.structured_content["plates"] >= 2
    assert detail(pixels((folder / "deeper" / "covered.png").read_bytes()), NEAR) < 0.2 * detail(BOTH, NEAR)
    assert all(answer.is_error for answer in refused)
    told = [answer.content[0].text for answer in refused]
    assert "street.png exists already" in told[0]
    assert all("does not lie below" in text for text in told[1:3])
    assert "none.png: No such file or directory." in told[3]
    assert "The image is not a readable" in told[4]
    assert (folder / "street.png").read_bytes() == before


def test_only_what_lies_below_the_folder_is_seen(folder):
    assert inside(folder, "deeper/../street.png") == folder / "street.png"
    for name in ("../secret.png", str(folder.parent / "secret.png"), "link.png", "..", ".", "a\0.png"):
        with pytest.raises(BadParameter):
            inside(folder, name)


def failure(folder: Path, tool: str, **given: str) -> str:
    """What the assistant is told of a call that fails, with engines that open the file and find no image in it."""

    def read(file: Path) -> Reading:
        file.read_bytes()
        raise UndecodableImage("The file is no image.")

    def cover(file: Path, _: Any) -> Covered:
        return Covered(file.read_bytes(), "image/png", 0)

    with pytest.raises(ToolError) as caught:
        asyncio.run(server(folder, read, cover).call_tool(tool, given))
    assert not isinstance(caught.value, UnexpectedToolError)
    return str(caught.value)


def test_an_assistant_is_told_what_is_wrong(folder):
    assert "none.png: No such file or directory." in failure(folder, "read", file="none.png")
    assert "The file is no image." in failure(folder, "read", file="text.png")
    assert "does not lie below" in failure(folder, "read", file="link.png")
    assert "street.png exists already" in failure(folder, "redact", file="street.png", out="street.png")
    assert "none.png: No such file or directory." in failure(folder, "redact", file="none.png", out="a.png")
    assert "text.png/a.png: " in failure(folder, "redact", file="street.png", out="text.png/a.png")
