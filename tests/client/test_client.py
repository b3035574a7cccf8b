"""The Python client and the command line, against real servers and in the process itself."""

import asyncio
import csv
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service import settings
from service.client import AsyncClient, Client, cli
from service.errors import Refused, Unreachable
from service.reader import ImageResult, Reader
from service.settings import REPOSITORY
from service.wire import Plate, Recognition, Result, TimingMs
from tests.support import processes
from tests.support.artifacts import TINY_TEXT
from tests.support.images import encode, picture
from tests.support.processes import Process
from tests.support.samples import SAMPLES
from tests.support.servers import Serving

NOTE = "No reading was as sure as 1: is this a crop of one plate?"
KEY = "a key of 20 letters."


@pytest.fixture(scope="module")
def url(client) -> str:
    return str(client.base_url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them deeper, something else, and what only looks like an image."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / "a.JPG").write_bytes(encode(".jpg"))
    (tmp_path / "deeper" / "b.png").write_bytes(encode(".png", picture(60, 20)))
    (tmp_path / "deeper" / "broken.png").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("x")
    return tmp_path


def test_the_client_reads_paths_and_bytes_and_keeps_the_order(url, folder):
    with Client(url) as client:
        answer = client.read(folder / "a.JPG", encode(), folder / "deeper" / "broken.png", top_k=2)
        assert isinstance(answer, Recognition)
        assert answer.model.variant == "tiny"
        first, second, third = answer.results
        assert (first.filename, second.filename, third.filename) == ("a.JPG", None, "broken.png")
        assert [result.plates[0].text for result in (first, second)] == [TINY_TEXT] * 2
        assert len(first.plates[0].candidates) == 2
        assert third.error is not None
        assert third.error.status == 400
        assert client.read(encode(), formats=["cn-standard"], variant="tiny").results[0].plates[0].formats == [
            "cn-standard"
        ]
        (unsure,) = client.read(encode(), min_confidence=1).results
        assert (unsure.plates, unsure.note) == ([], NOTE)
        assert client.variants().active == "tiny"
        assert client.model().variant == "tiny"


def test_the_client_raises_what_the_server_says(url):
    with Client(url) as client:
        with pytest.raises(Refused, match="not a readable JPEG") as refused:
            client.read(b"x")
        assert refused.value.status == 400
        with pytest.raises(Refused, match="no 'cn-pink'"):
            client.read(encode(), formats=["cn-pink"])
        with pytest.raises(Refused, match="LPR_API_KEYS"):
            client.activate("tiny")
    with Client(f"{url}/static", retries=0) as client, pytest.raises(Refused, match="GET /docs"):
        client.read(encode())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(nobody) as client, pytest.raises(Unreachable, match="does not answer"):
            client.variants()


def test_the_client_carries_its_key(serving: Serving):
    url = str(serving(api_keys=KEY).base_url)
    with Client(url, api_key=KEY) as client:
        assert client.read(encode()).results[0].plates[0].text == TINY_TEXT
        assert client.activate("tiny").active == "tiny"
    with Client(url) as client, pytest.raises(Refused, match="API key") as refused:
        client.read(encode())
    assert refused.value.status == 401


def test_a_busy_server_is_asked_again(serving: Serving):
    """One image at a time is all that it takes, and four ask at once; each of them waits a second or more."""
    url = str(serving(max_images=1, queue=1).base_url)
    large = encode(".png", picture(2000, 2000))

    async def read() -> list[Recognition]:
        async with AsyncClient(url, retries=20) as client:
            return await asyncio.gather(*(client.read(large) for _ in range(4)))

    assert [answer.results[0].plates[0].text for answer in asyncio.run(read())] == [TINY_TEXT] * 4


def test_the_awaited_client_does_the_same(url, folder):
    async def use() -> None:
        async with AsyncClient(url) as client:
            answer = await client.read(folder / "a.JPG", min_confidence=1)
            assert (answer.results[0].filename, answer.results[0].plates) == ("a.JPG", [])
            assert (await client.variants()).active == (await client.model()).variant == "tiny"
            with pytest.raises(Refused, match="not a readable JPEG"):
                await client.read(b"x")
            with pytest.raises(Refused, match="LPR_API_KEYS"):
                await client.activate("tiny")
        async with AsyncClient("http://127.0.0.1:1") as client:
            with pytest.raises(Unreachable):
                await client.variants()

    asyncio.run(use())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> None:
    """In the process itself, the tiny artifact reads."""
    for name, value in {"VARIANT": "tiny", "ARTIFACTS": str(artifacts), "THREADS": "1"}.items():
        monkeypatch.setenv(f"LPR_{name}", value)
    monkeypatch.delenv("LPR_URL", raising=False)


@pytest.fixture(params=["here", "there"])
def where(request: pytest.FixtureRequest, url: str) -> list[str]:
    return ["--url", url] if request.param == "there" else []


def test_a_folder_is_read_in_order_and_what_cannot_be_read_is_told(where, folder, capsys):
    assert cli.main(["read", str(folder), *where]) == cli.SOME_NOT_READ
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    files = [folder / "a.JPG", folder / "deeper" / "b.png", folder / "deeper" / "broken.png"]
    assert [line[0] for line in lines] == list(map(str, files))
    assert [line[1] for line in lines[:2]] == [TINY_TEXT] * 2
    assert lines[0][3] == "cn-standard"
    assert lines[2][1].startswith("The image is not a readable JPEG")


def test_an_old_name_of_a_setting_is_warned_of(folder, monkeypatch, capsys):
    monkeypatch.delenv("LPR_VARIANT")
    monkeypatch.setenv("LPR_BACKEND", "tiny")
    assert cli.main(["read", str(folder)]) == cli.SOME_NOT_READ
    assert "lpr: LPR_BACKEND is now called LPR_VARIANT: " in capsys.readouterr().err


def test_rows_for_programs(where, folder, capsys):
    assert cli.main(["read", str(folder), "--csv", *where]) == cli.SOME_NOT_READ
    first, _, third = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (first["file"], first["text"], first["formats"]) == (str(folder / "a.JPG"), TINY_TEXT, "cn-standard")
    assert (first["valid_format"], first["error"]) == ("True", "")
    assert 0 < float(first["confidence"]) <= 1
    assert (third["text"], third["confidence"]) == ("", "")
    assert third["error"].endswith(".")
    file = str(folder / "a.JPG")
    assert cli.main(["read", file, "--json", "--top-k", "2", *where]) == cli.ALL_READ
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert (row["file"], row["error"]) == (file, None)
    assert (row["plate"], row["text"], len(row["candidates"]), row["found"]) == (1, TINY_TEXT, 2, None)
    assert cli.main(["read", file, "--json", "--min-confidence", "1", *where]) == cli.ALL_READ
    row = json.loads(capsys.readouterr().out)
    assert (row["plate"], row["text"], row["note"], row["error"]) == (None, None, NOTE, None)
    assert cli.main(["read", file, "--csv", "--min-confidence", "1", *where]) == cli.ALL_READ
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["text"], row["formats"], row["note"], row["error"]) == ("", "", NOTE, "")
    assert cli.main(["read", file, "--min-confidence", "1", *where]) == cli.ALL_READ
    assert capsys.readouterr().out == f"{file}\t{NOTE}\n"


def test_what_makes_no_sense_is_refused_with_a_sentence(where, folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    file = str(folder / "a.JPG")
    for arguments, sentence in (
        ([str(tmp_path / "none")], "There is no file or folder"),
        ([str(empty)], "The folder holds no image: .jpg"),
        ([str(tmp_path / "none"), str(empty)], "no image: .jpg"),
        ([str(folder / "labels"), str(empty)], "There is no file or folder"),
        ([file, "--format", "cn-pink"], "there is no 'cn-pink'"),
        ([file, "--variant", "none"], "here is no"),
        (["--url", "http://127.0.0.1:1", file], "does not answer"),
        (["--url", "127.0.0.1:1", file], "does not answer"),
        (["--url", "http://host:port", file], "is no address"),
    ):
        assert cli.main(["read", *(where if "--url" not in arguments else []), *arguments]) == cli.REFUSED
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("lpr: ")
        assert sentence in said.err
    for arguments in ([], ["read"], ["read", file, "--csv", "--json"], ["read", file, "--min-confidence", "2"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2


def test_a_file_that_cannot_be_opened_is_one_row(where, folder, capsys):
    (folder / "gone.png").symlink_to(folder / "nothing")
    assert cli.main(["read", str(folder), *where]) == cli.SOME_NOT_READ
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "The file cannot be opened: No such file or directory." in lines[3]


def test_what_was_skipped_in_folders_is_told_and_what_was_named_has_a_row(where, folder, capsys):
    (folder / "deeper" / "broken.png").unlink()
    (folder / "empty").mkdir()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.jpg").write_bytes(encode())
    (folder / "deeper" / "._b.png").write_bytes(b"x")
    (folder / "notes").write_text("x")
    (folder / "again").symlink_to(folder / "deeper")
    os.mkfifo(folder / "pipe.jpg")  # whoever opened it would wait for ever
    assert cli.main(["read", str(folder), *where]) == cli.ALL_READ
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err == (
        "lpr: 2 read, 0 not. Skipped in folders: files that are no images (.txt, without a suffix): 2; "
        "empty folders: 1; hidden: 2; links to folders: 1; no regular files: 1.\n"
    )
    named = [folder / name for name in ("a.JPG", "labels.txt", "empty", "gone", "pipe.jpg")]
    assert cli.main(["read", *map(str, named), *where]) == cli.SOME_NOT_READ
    rows = dict(line.split("\t")[:2] for line in capsys.readouterr().out.splitlines())
    assert list(rows) == list(map(str, named))
    assert rows[str(named[0])] == TINY_TEXT
    errors = ("The image is not", "The folder holds no", "There is no file", "It is no regular")
    for path, error in zip(named[1:], errors, strict=True):
        assert rows[str(path)].startswith(error)


def test_a_folder_that_cannot_be_opened_is_a_row(folder, capsys, monkeypatch):
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deeper"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert cli.main(["read", str(folder)]) == cli.SOME_NOT_READ
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{folder / 'deeper'}\tThe folder cannot be opened: Permission denied."


def test_a_file_of_too_many_bytes_is_not_read(folder, capsys, monkeypatch):
    monkeypatch.setenv("LPR_MAX_BYTES", "1000")
    with (folder / "huge.jpg").open("wb") as huge:
        huge.truncate(10**12)  # sparse
    assert cli.main(["read", str(folder / "huge.jpg")]) == cli.SOME_NOT_READ
    assert "1,000,000,000,000 bytes; LPR_MAX_BYTES allows 1,000." in capsys.readouterr().out


def test_the_key_and_the_server_come_from_the_environment(serving: Serving, folder, capsys, monkeypatch):
    url = str(serving(api_keys=KEY).base_url)
    monkeypatch.setenv("LPR_URL", url)
    assert cli.main(["read", str(folder / "a.JPG")]) == cli.REFUSED
    assert "API key" in capsys.readouterr().err
    monkeypatch.setenv("LPR_API_KEY", KEY)
    assert cli.main(["read", str(folder / "a.JPG")]) == cli.ALL_READ
    assert KEY not in repr(settings.ClientSettings())


def test_a_bar_shows_the_progress_on_a_terminal(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["read", str(folder / "a.JPG"), str(folder / "deeper" / "b.png")]) == cli.ALL_READ
    said = capsys.readouterr()
    assert "2/2" in said.err
    assert len(said.out.splitlines()) == 2


def test_the_command_reads_a_published_variant_without_a_server(monkeypatch):
    monkeypatch.delenv("LPR_ARTIFACTS")
    samples = REPOSITORY / "tests" / "samples"
    command = [sys.executable, "-c", "import sys; from service.client.cli import main; sys.exit(main())"]
    command += ["read", str(samples), "--csv", "--variant", "quantized"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {Path(row["file"]).name: row["text"] for row in rows} == dict(SAMPLES)
    assert (
        done.stderr == "lpr: 6 read, 0 not. Skipped in folders: files that are no images (.csv): 1.\n"
    )  # no bar: no terminal


def test_a_reader_that_goes_away_is_no_fault(folder):
    head = shutil.which("true")
    command = f"import sys; from service.client.cli import main; sys.exit(main(['read', {str(folder)!r}]))"
    with subprocess.Popen([str(head)], stdin=subprocess.PIPE) as reader:
        reader.wait()
        done = subprocess.run(
            [sys.executable, "-c", command], cwd=REPOSITORY, stdout=reader.stdin, stderr=subprocess.PIPE, check=False
        )
    assert b"Traceback" not in done.stderr


def test_a_file_that_ends_early_is_read_with_a_warning(where, tmp_path, capsys):
    file = tmp_path / "cut.jpg"
    file.write_bytes(encode(".jpg", picture(300, 100))[:-40])
    assert cli.main(["read", str(file), "--json", *where]) == cli.ALL_READ
    printed = capsys.readouterr()
    assert json.loads(printed.out)["truncated"] is True
    assert f"lpr: {file} ends early" in printed.err


BOX = [(1.5, 2), (101, 2), (101, 27), (1.5, 27)]


def found(number: int) -> Plate:
    """A plate as a server with a finder tells it."""
    seen = {"found": 0.98, "rows": 1 + number % 2, "colour": "blue", "cut": number == 2}
    return Plate(
        text=f"京A1234{number}" if number < 3 else "",
        confidence=0.5,
        valid_format=True,
        formats=["cn-standard"],
        characters=[],
        candidates=[],
        box=BOX,
        region={"code": "cn", "probability": 0.9} if number < 3 else None,
        **seen,
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What servers and readers are asked from now on; they see three plates on each image, one without a text."""
    asked: list[dict] = []
    plates = [found(1), found(2), found(3)]

    def read_there(_: Client, path: Path, **parameters: object) -> Recognition:
        asked.append(parameters)
        model = {"variant": "tiny", "version": "1", "engine": "none"}
        times = dict.fromkeys(TimingMs.model_fields, 0.0)
        result = Result(filename=path.name, plates=plates)
        return Recognition(backend="tiny", model=model, results=[result], timing_ms=times)

    def read_here(_: Reader, files: list[Path], **parameters: object) -> list[ImageResult]:
        asked.append(parameters)
        return [ImageResult(plates) for _ in files]

    monkeypatch.setattr(Client, "read", read_there)
    monkeypatch.setattr(Reader, "read_all", read_here)
    return asked


def test_a_photograph_has_a_row_for_each_plate(where, folder, asked, capsys):
    file = str(folder / "a.JPG")
    assert cli.main(["read", file, *where]) == cli.ALL_READ
    assert asked.pop()["find"] in (None, True)
    first, second, third = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert first[:4] == [file, "京A12341", "50.0 %", "cn-standard"]
    assert third[1] == "no text"
    assert (first[5], len(third)) == ("cn 90 %", 5)
    assert first[4] == "plate 1, found 98.0 %, rows 2, blue, at 1.5 2 101 2 101 27 1.5 27"
    assert second[4] == "plate 2, found 98.0 %, rows 1, blue, cut, at 1.5 2 101 2 101 27 1.5 27"
    assert cli.main(["read", file, "--csv", "--no-find", *where]) == cli.ALL_READ
    assert asked.pop()["find"] is False
    first, second, _ = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (first["file"], first["plate"], second["plate"], second["text"]) == (file, "1", "2", "京A12342")
    told = [second[name] for name in ("found", "rows", "colour", "cut", "corners", "note", "error", "region")]
    assert told == ["0.98", "1", "blue", "True", "1.5 2 101 2 101 27 1.5 27", "", "", "cn"]
    assert cli.main(["read", file, "--json", *where]) == cli.ALL_READ
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["plate"], row["text"], row["cut"]) for row in rows[:2]] == [
        (1, "京A12341", False),
        (2, "京A12342", True),
    ]
    assert rows[0]["box"] == [list(corner) for corner in BOX]


def test_regions_are_asked_for(where, folder, asked):
    assert cli.main(["read", str(folder / "a.JPG"), "--region", "cn,de", *where]) == cli.ALL_READ
    assert ",".join(asked.pop()["regions"]) == "cn,de"


def test_a_region_that_the_model_does_not_read_is_refused(url, where, folder, capsys):
    with Client(url) as client:
        assert client.read(encode(), regions=["cn"]).results[0].plates[0].text == TINY_TEXT
        with pytest.raises(Refused, match="choose among cn"):
            client.read(encode(), regions=["xx"])
    assert cli.main(["read", str(folder / "a.JPG"), "--region", "xx", *where]) == cli.REFUSED
    assert "choose among cn" in capsys.readouterr().err


def test_the_client_asks_for_crops_or_photographs(url):
    with Client(url) as client:
        assert client.read(encode(), find=False).results[0].plates[0].text == TINY_TEXT
        with pytest.raises(Refused, match="LPR_FINDER"):
            client.read(encode(), find=True)


SERVER = {"cv2", "PIL", "uvicorn", "fastapi", "starlette", "service.app", "service.http", "service.pipeline"}


@pytest.mark.parametrize(
    "program",
    [
        "from service.client import AsyncClient, Client",
        "from service.client.cli import main; main(['read', '--help'])",
        "from service.client.cli import main; main(['read', FILE, '--url', URL])",
    ],
)
def test_the_client_loads_nothing_of_the_server(program, url, folder):
    names = f"import atexit, sys; FILE, URL = {str(folder / 'a.JPG')!r}, {url!r}\n"
    report = f"atexit.register(lambda: print('loaded:', *sorted({SERVER!r} & set(sys.modules))))\n"
    done = subprocess.run(
        [sys.executable, "-c", names + report + program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]
    assert (TINY_TEXT in done.stdout) == ("URL" in program)


def test_the_command_line_works_without_httpx(folder):
    program = (
        "import sys; sys.modules['httpx'] = None; from service.client.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "read", str(folder / "a.JPG")]
    here = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert TINY_TEXT in here.stdout
    there = subprocess.run(
        [*command, "--url", "http://127.0.0.1:1"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (there.returncode, there.stdout) == (cli.REFUSED, "")
    assert there.stderr.startswith("lpr: Reading on a server needs httpx")


def test_names_with_control_characters_reach_no_terminal(where, folder, capsys):
    name = "\x1b[31m\x9b\u202e\udcff\n.jpg"
    (folder / name).write_bytes(encode(".jpg", picture(300, 100))[:-40])
    escaped = "\\u001b[31m\\u009b\\u202e\\udcff\\n.jpg"
    for form in ([], ["--csv"], ["--json"]):
        assert cli.main(["read", str(folder / name), *form, *where]) == cli.ALL_READ
        said = capsys.readouterr()
        assert escaped in said.out
        assert escaped in said.err  # it was cut off
        for line in (said.out + said.err).splitlines():
            assert line.replace("\t", "").isprintable()
    assert json.loads(said.out)["file"] == str(folder / name)
    assert cli.main(["read", str(folder / f"none{name}"), *where]) == cli.REFUSED
    assert escaped in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["read", str(folder), f"--{name}"])
    assert escaped in capsys.readouterr().err


def test_what_a_decoder_says_of_an_image_is_not_printed(tmp_path):
    file = tmp_path / "damaged.jpg"
    whole = encode(".jpg", picture(300, 100))
    file.write_bytes(whole[:-300] + whole[-2:])
    command = [sys.executable, "-c", "import sys; from service.client.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run([*command, "read", str(file)], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


@pytest.mark.parametrize(("command", "absent"), [("read", []), ("bulk", ["the server", "--json"])])
def test_the_help_speaks_of_what_the_command_has(command, absent, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "instead of" in told
    assert "candidates of a plate" in told
    assert [text for text in absent if text in told] == []


@pytest.mark.parametrize("form", [[], *(pytest.param([form], marks=pytest.mark.slow) for form in ("--csv", "--json"))])
def test_output_that_cannot_be_written_is_a_sentence(folder, form):
    program = "import sys; from service.client.cli import main; sys.exit(main(sys.argv[1:]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "read", str(folder / "a.JPG"), *form],
            cwd=REPOSITORY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        cli.REFUSED,
        "lpr: The output cannot be written: No space left on device.\n",
    )


@pytest.mark.slow
def test_the_server_is_a_command_too(artifacts, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", "--help"])
    assert stopped.value.code == 0
    assert "LPR_PORT" in capsys.readouterr().out
    command = [sys.executable, "-c", "import sys; from service.client.cli import main; sys.exit(main())", "serve"]
    server = Process(processes.environment(artifacts), command)
    assert (
        httpx.post(f"{server.url}/recognize", content=encode()).json()["results"][0]["plates"][0]["text"] == TINY_TEXT
    )
    assert server.stop(signal.SIGTERM) == 0
    refused = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"LPR_VARIANT": "none"}, capture_output=True, text=True, check=False
    )
    assert refused.returncode == cli.REFUSED
    assert "There is no variant 'none'" in refused.stderr
