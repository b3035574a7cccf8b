"""`lpr mcp`: the tools, asked by the client of the package `mcp` over stdio, on local files and on a server."""

import asyncio
import json
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError

from service.client.assistant import Reading, engines, inside, server
from service.client.client import Covered
from service.errors import BadParameter, UndecodableImage
from service.settings import REPOSITORY, Settings
from tests.support.images import encode
from tests.support.photographed import BOTH, NEAR, detail, pixels, with_location
from tests.support.photographs import TEXTS
from tests.support.servers import running

PROGRAM = "import sys; from service.client.cli import main; sys.exit(main())"


KEY = "a key of 20 letters."


def documented(url: str) -> dict[str, str]:
    """The variables that docs/integrations.md has in an assistant's list of servers, for a server with a key."""
    text = (REPOSITORY / "docs" / "integrations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    entries = [json.loads(block)["mcpServers"]["lpr"] for block in blocks if "mcpServers" in block]
    (variables,) = [entry["env"] for entry in entries if "env" in entry]
    return {name: {"http://SERVER:8000": url, "KEY": KEY}[value] for name, value in variables.items()}


async def asked(folder: Path, variables: dict[str, str]) -> tuple[list[str], list[Any]]:
    """The names of the tools, and the answers to some calls of them."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-c", PROGRAM, "mcp", str(folder)],
        cwd=REPOSITORY,
        env={"LPR_THREADS": "1"} | variables,
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
    (folder / "deep").mkdir()
    (tmp_path / "secret.png").write_bytes(encode(".png", BOTH))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "there"])
def test_the_tools(folder, where):
    before = (folder / "street.png").read_bytes()
    if where == "here":
        tools, answers = asyncio.run(asked(folder, {}))
    else:
        with running(Settings(threads=1, api_keys=KEY)) as url:
            tools, answers = asyncio.run(asked(folder, documented(url)))
    assert tools == ["read", "redact"]
    read, covered, *refused = answers
    assert not read.is_error, read
    assert [plate["text"] for plate in read.structured_content["plates"]] == [TEXTS["blue"], TEXTS["yellow"]]
    assert not covered.is_error, covered
    assert covered.structured_content["file"] == "deeper/covered.png"
    assert covered.structured_content["places"] >= 2
    assert detail(pixels((folder / "deeper" / "covered.png").read_bytes()), NEAR) < 0.2 * detail(BOTH, NEAR)
    assert all(answer.is_error for answer in refused)
    told = [answer.content[0].text for answer in refused]
    assert "street.png exists already" in told[0]
    assert all("does not lie below" in text for text in told[1:3])
    assert "none.png: There is no file or folder of this name." in told[3]
    assert "The image is not a readable" in told[4]
    assert (folder / "street.png").read_bytes() == before


def test_only_what_lies_below_the_folder_is_seen(folder):
    assert inside(folder, "deeper/../street.png") == folder / "street.png"
    for name in ("../secret.png", str(folder.parent / "secret.png"), "link.png", "..", ".", "a\0.png"):
        with pytest.raises(BadParameter):
            inside(folder, name)


def test_what_is_hidden_is_not_seen(folder):
    (folder / ".cache").mkdir()
    (folder / "deeper").symlink_to(folder / ".cache")
    (folder / "new.png").symlink_to(folder / ".profile")
    for name in (".profile", ".cache/a.png", "deeper/a.png", "new.png", "x/.y/a.png", "..png"):
        with pytest.raises(BadParameter, match="is hidden"):
            inside(folder, name)
    (folder / ".cache" / "b.png").write_bytes(b"")
    assert inside(folder / ".cache", "b.png") == folder / ".cache" / "b.png", "the user named this folder"


def tools(folder: Path) -> Any:
    """A server with engines that open the file: the one finds no image in it, the other copies it as a BMP."""

    def read(file: Path) -> Reading:
        file.read_bytes()
        raise UndecodableImage("The file is no image.")

    def cover(file: Path, _: Any) -> Covered:
        return Covered(file.read_bytes(), "image/bmp", 0)

    return server(folder, read, cover)


def failure(folder: Path, tool: str, **given: str) -> str:
    """What the assistant is told of a call that fails."""
    with pytest.raises(ToolError) as caught:
        asyncio.run(tools(folder).call_tool(tool, given))
    assert not isinstance(caught.value, UnexpectedToolError)
    return str(caught.value)


def test_an_assistant_is_told_what_is_wrong(folder):
    assert "none.png: There is no file or folder" in failure(folder, "read", file="none.png")
    assert "The file is no image." in failure(folder, "read", file="text.png")
    assert "does not lie below" in failure(folder, "read", file="link.png")
    assert "street.png exists already" in failure(folder, "redact", file="street.png", out="street.png")
    assert "none.png: There is no file or folder" in failure(folder, "redact", file="none.png", out="a.png")
    assert "text.png/a.bmp: " in failure(folder, "redact", file="street.png", out="text.png/a.bmp")


def test_only_an_image_is_written_under_the_name_of_its_format(folder):
    (folder / "link.bmp").symlink_to(folder / "start")
    before = sorted(folder.rglob("*"))
    for out in ("start", "start.sh", "start.bmp.sh", "a.png", "a.jpg", "a.heic", "link.bmp"):
        assert "does not fit the image" in failure(folder, "redact", file="text.png", out=out)
    assert "is hidden" in failure(folder, "redact", file="text.png", out=".bmp")
    assert "is hidden" in failure(folder, "redact", file="text.png", out=".config/a.bmp")
    assert sorted(folder.rglob("*")) == before
    asyncio.run(tools(folder).call_tool("redact", {"file": "text.png", "out": "A.BMP"}))
    assert (folder / "A.BMP").read_text() == "text"


def test_what_is_no_regular_file_is_not_opened(folder):
    os.mkfifo(folder / "pipe.png")  # whoever opened it would wait for ever
    for tool, given in (("read", {}), ("redact", {"out": "a.bmp"})):
        assert "deep: It is no regular file." in failure(folder, tool, file="deep", **given)
        assert "pipe.png: It is no regular file." in failure(folder, tool, file="pipe.png", **given)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "there"])
def test_a_file_that_ends_early_is_told(folder, where):
    whole = with_location()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    with running(Settings(threads=1)) as url, ExitStack() as stack:
        read, cover = engines(url if where == "there" else None, stack)
        assert (read(folder / "cut.jpg").truncated, read(folder / "street.png").truncated) == (True, False)
        covered = cover(folder / "cut.jpg", "fill")
        assert (covered.media_type, covered.truncated) == ("image/jpeg", True)
