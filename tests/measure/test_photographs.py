"""The benchmark of whole photographs: what is drawn, sent and counted."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import cv2
import httpx
import numpy as np
import pytest

from model_builder.measure.load import photographs, scenes, servers
from model_builder.measure.load.peers.common import Finder, Model
from model_builder.measure.parts import Parts
from service import Reader, backends
from service.settings import Settings
from tests.support.artifacts import PUBLISHED
from tests.support.finding import publish_small
from tests.support.images import encode
from tests.support.photographs import street, with_plate

PLATE = [(300.0, 400.0), (520.0, 410.0), (518.0, 480.0), (298.0, 470.0)]


def test_rendered_photographs_have_their_size_and_plates():
    images = scenes.photographs(480, 320, 2, plates=1)
    assert images == scenes.photographs(480, 320, 2, plates=1)
    for image in images:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (320, 480, 3)
        assert pixels[-1].std() > 1  # no grey below what does not fill the canvas
    assert images != scenes.photographs(480, 320, 2)


def test_readers_take_turns_and_plates_read_are_counted(monkeypatch):
    monkeypatch.setattr(photographs, "WARM_UP", 1)
    asked: list[str] = []

    def reads(name: str, spent: float, *texts: str) -> photographs.Read:
        def read(path: Path) -> tuple[float, list[str]]:
            asked.append(name)
            return spent, [*texts]

        return read

    readers = {"one": reads("one", 2.0, "京A·12345", "x"), "two": reads("two", 8.0)}
    found = photographs.versus(readers, [("a.jpg", ["京A12345"]), ("b.jpg", ["京A12345", "京B12345"])])
    assert asked == ["one", "two"] * 3
    assert (found["photographs"], found["plates"]) == (2, 3)
    assert found["readers"]["one"] == {"exact": 2, "median": 2.0, "p95": 2.0}
    assert found["readers"]["two"] == {"exact": 0, "median": 8.0, "p95": 8.0}


def test_only_whole_photographs_with_texts_are_read(tmp_path):
    (tmp_path / "labels.csv").write_text("file,text\na.jpg,京A12345\n", encoding="utf-8")
    assert photographs._labelled(tmp_path) == []
    corners = "x1,y1,x2,y2,x3,y3,x4,y4"
    rows = ["a.jpg,京A12345,0,0,9,0,9,3,0,3", "a.jpg,京B12345,0,0,9,0,9,3,0,3"]
    (tmp_path / "labels.csv").write_text("\n".join([f"file,text,{corners}", *rows]), encoding="utf-8")
    ((path, texts),) = photographs._labelled(tmp_path)
    assert Path(path).name == "a.jpg"
    assert texts == ["京A12345", "京B12345"]


@pytest.mark.slow
def test_a_server_is_measured_and_every_part_is_kept(artifacts, tmp_path, monkeypatch):
    root = publish_small(Path(shutil.copytree(artifacts, tmp_path / "artifacts")))
    monkeypatch.setattr(photographs, "SIZES", ((320, 240, None, 1),))
    monkeypatch.setattr(photographs, "_OTHERS", ())
    monkeypatch.setattr(photographs, "MIXED", 4)
    monkeypatch.setattr(photographs, "_peer", lambda: nullcontext({}))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.jpg").write_bytes(encode(image=street(320, 240)))
    listing = "file,text,x1,y1,x2,y2,x3,y3,x4,y4\na.jpg,京A12345,0,0,9,0,9,3,0,3\n"
    (tmp_path / "own" / "labels.csv").write_text(listing, encoding="utf-8")
    settings = Settings(artifacts=root, variant="tiny", finder="finder")
    found = photographs.measure(Parts(tmp_path / "work"), settings, [tmp_path / "own"])
    assert found["sets"]["own"]["readers"]["lpr"]["median"] > 0
    assert found["stages"]["320x240"]["stages"]["find"] > 0
    assert found["memory"]["resident"] >= found["memory"]["proportional"] > 10e6
    text = photographs.markdown(found)
    assert "| own | lpr | 0 of 1, 0.0 % |" in text
    assert "was left out" in text
    assert "After 4 photographs" in text
    monkeypatch.setattr(photographs, "served", None)
    assert photographs.measure(Parts(tmp_path / "work"), settings, [tmp_path / "own"]) == found


@pytest.mark.parametrize("answer", ["lpr", "a peer of crops", "a peer of photographs"])
def test_texts_are_told_alike(answer, monkeypatch):
    plates = [{"text": "京A12345"}, {"text": ""}]
    shapes = {
        "lpr": {"results": [{"plates": plates}]},
        "a peer of crops": plates[0],
        "a peer of photographs": {"plates": plates},
    }

    class Response:
        def raise_for_status(self) -> None:
            pass

        def json(self) -> object:
            return shapes[answer]

    monkeypatch.setattr(httpx, "post", lambda *_, **__: Response())
    assert servers.Running(servers.trivial(), None, 1).texts(b"") == ["京A12345"]


def test_the_peers_find_and_read_what_the_server_does(monkeypatch):
    names = {"artifacts": str(PUBLISHED), "variant": "quantized", "finder": "finder-quantized"}
    for name, value in names.items():
        monkeypatch.setenv(f"LPR_{name.upper()}", value)
    photograph = encode(image=with_plate(street(), "blue", PLATE))
    model = Model()
    engine = backends.load(model.artifact)
    (plate,) = cast(list, Finder(model).answer(engine, photograph)["plates"])
    with Reader(**names) as reader:
        (own,) = reader.read(photograph)
    assert (plate["text"], plate["box"]) == (own.text, [*own.box])
    assert plate["found"] == pytest.approx(own.found)
