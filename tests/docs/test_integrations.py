"""What docs/integrations.md has others run: executed as it stands there, against a server."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from model_builder.measure.load.servers import free_port
from service.settings import REPOSITORY
from tests.support.answers import JPEG
from tests.support.artifacts import TINY_TEXT
from tests.support.images import encode
from tests.support.processes import program

PAGE = (REPOSITORY / "docs" / "integrations.md").read_text(encoding="utf-8")


def node_red(payload: object) -> list[object]:
    """What the function after the request sends on for an answer: a message, or None."""
    import playwright  # brings Node.js

    (function,) = (block for block in re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL) if "filter" in block)
    body = f"const on = (msg) => {{{function}}}; console.log(JSON.stringify([on({{payload: {json.dumps(payload)}}})]))"
    node = Path(playwright.__file__).parent / "driver" / "node"
    done = subprocess.run([node, "-e", body], capture_output=True, text=True, check=True)
    sent: list[object] = json.loads(done.stdout)
    return sent


def test_node_red_passes_sure_plates_on_and_no_error(client):
    pytest.importorskip("playwright")
    sure, unsure = ({"text": text, "confidence": confidence} for text, confidence in (("A1", 0.95), ("B2", 0.5)))
    assert node_red({"results": [{"plates": [sure, unsure]}]}) == [{"payload": ["A1"]}]
    assert node_red({"results": [{"plates": [unsure]}]}) == [None]
    refused = client.post("/recognize", content=b"x", headers=JPEG)
    assert refused.is_error
    answers: list[object] = [refused.json(), {"results": []}, "502 Bad Gateway"]
    assert [node_red(answer) for answer in answers] == [[None]] * 3


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """The host and port of a camera, which has the picture `snapshot.jpg` of the folder, if that is there."""
    (tmp_path / "camera").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "camera"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_cron_job_appends_answers_and_no_errors(client, camera, tmp_path):
    program("curl")
    (line,) = re.findall(r"^\* \* \* \* \* (.*)$", PAGE, re.MULTILINE)
    lines = tmp_path / "plates.jsonl"

    def run(camera: str, server: httpx.URL) -> str:
        command = line.replace("CAMERA", camera).replace("SERVER:8000", f"{server.host}:{server.port}")
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False).stderr

    nobody = f"127.0.0.1:{free_port()}"
    assert "curl:" in run(nobody, client.base_url)
    assert "404" in run(camera, client.base_url)
    (tmp_path / "camera" / "snapshot.jpg").write_bytes(encode())
    assert "curl:" in run(camera, httpx.URL(f"http://{nobody}"))
    assert lines.read_text(encoding="utf-8") == ""
    for _ in range(2):
        assert run(camera, client.base_url) == ""
    answers = [json.loads(answer) for answer in lines.read_text(encoding="utf-8").splitlines()]
    assert [answer["results"][0]["plates"][0]["text"] for answer in answers] == [TINY_TEXT] * 2
