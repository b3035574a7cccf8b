"""Choosing a variant for a request, and switching the server to another one under load, over HTTP."""

import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from service import backends, errors
from service.artifact import Artifact, Measured, write
from service.backends import Backend
from service.settings import Settings
from tests.support.answers import AUTHORIZED, JPEG, KEY, activate, problem
from tests.support.artifacts import MEASURED, OTHER_TEXT, PUBLISHED, TINY_TEXT, describe, save_tiny_model
from tests.support.images import encode, picture
from tests.support.servers import Serving, eventually


@pytest.fixture
def several(originals: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may change."""
    return Path(shutil.copytree(originals, tmp_path / "variants"))


@pytest.fixture(scope="module")
def locked(serving: Serving) -> httpx.Client:
    """A client without a key, of a server with two."""
    return serving(api_keys=f" {'another key of the server'} , {KEY},")


def text(client: httpx.Client, **parameters: str) -> str:
    response = client.post("/recognize", params=parameters, content=encode(), headers=JPEG)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"]["variant"] == answer["backend"]
    return str(answer["results"][0]["plates"][0]["text"])


@pytest.fixture
def keyed(serving: Serving, several: Path) -> httpx.Client:
    """A client that carries the server's key."""
    client = serving(artifacts=several, api_keys=KEY)
    client.headers.update(AUTHORIZED)
    return client


def test_the_installed_variants_are_listed_with_what_was_measured(serving, several):
    client = serving(artifacts=several)
    listing = client.get("/variants").json()
    assert listing["active"] == "tiny"
    broken, other, tiny, wrong = listing["variants"]
    assert [(entry["active"], entry["loaded"], entry["choosable"]) for entry in (other, tiny)] == [
        (False, False, True),
        (True, True, True),
    ]
    assert (other["version"], other["backend"]) == ("1", "onnxruntime")
    assert Measured.model_validate(other["measured"]) == MEASURED
    assert tiny["measured"] is None
    assert (broken["variant"], broken["choosable"]) == ("broken", False)
    assert broken["problem"].startswith("broken/manifest.json is not JSON")
    assert wrong["problem"] is None  # nobody has tried it yet
    assert text(client, variant="other") == OTHER_TEXT
    assert [entry["loaded"] for entry in client.get("/variants").json()["variants"]] == [False, True, True, False]


def test_a_request_chooses_its_variant(serving, several):
    client = serving(artifacts=several)
    assert [text(client, variant=name) for name in ("other", "tiny", "other")] == [OTHER_TEXT, TINY_TEXT, OTHER_TEXT]
    assert text(client) == TINY_TEXT
    metrics = client.get("/metrics").text
    assert 'lpr_plates_total{backend="other"} 2.0' in metrics
    assert 'lpr_request_seconds_count{backend="tiny"} 2.0' in metrics


def test_a_body_that_cannot_be_read_loads_no_variant(serving, several):
    client = serving(artifacts=several)
    for path, body in (("/recognize?variant=other", b'{"images":'), ("/v2/models/other/infer", b"{")):
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400
    assert [entry["loaded"] for entry in client.get("/variants").json()["variants"]] == [False, False, True, False]


def test_the_time_that_loading_takes_is_none_of_the_upload(serving, several, monkeypatch):
    client, load = serving(artifacts=several, upload_s=0.5), backends.load

    def slowly(artifact: Artifact) -> Backend:
        time.sleep(1)
        return load(artifact)

    monkeypatch.setattr(backends, "load", slowly)
    large = encode(".bmp", picture(900, 900))  # it comes in several pieces
    response = client.post("/recognize?variant=other", content=large, headers=JPEG)
    assert response.status_code == 200, response.text


def test_what_finds_plates_is_not_offered_to_read_them(serving, artifacts, tmp_path):
    root = shutil.copytree(artifacts, tmp_path / "both")
    shutil.copytree(PUBLISHED / "refiner", root / "refiner")
    response = serving(artifacts=root).post("/recognize?variant=none", content=encode(), headers=JPEG)
    assert "installed are tiny." in problem(response, 404, errors.NoSuchVariant)


def test_a_variant_that_is_not_there_or_not_usable_is_refused_and_not_tried_again(serving, several):
    client = serving(artifacts=several)

    def refused(name: str, status: int, error: type[errors.LprError]) -> str:
        response = client.post("/recognize", params={"variant": name}, content=encode(), headers=JPEG)
        return problem(response, status, error)

    assert "installed are broken, other, tiny, wrong" in refused("none", 404, errors.NoSuchVariant)
    refused("../tiny", 404, errors.NoSuchVariant)
    sentence = refused("wrong", 409, errors.VariantUnusable)
    assert "wrong/probe.npz: onnxruntime" in sentence
    assert str(several) not in sentence
    write(several / "wrong", describe("wrong"))
    shutil.copy(several / "tiny" / "probe.npz", several / "wrong")
    assert refused("wrong", 409, errors.VariantUnusable) == sentence
    entry = client.get("/variants").json()["variants"][3]
    assert (entry["problem"], entry["choosable"]) == (sentence, False)
    assert text(client) == TINY_TEXT


def test_where_no_request_may_choose_only_the_active_variant_can_be_named(serving, several):
    client = serving(artifacts=several, choice=False)
    response = client.post("/recognize", params={"variant": "other"}, content=encode(), headers=JPEG)
    assert "reads with tiny only" in problem(response, 404, errors.NoSuchVariant)
    assert text(client, variant="tiny") == TINY_TEXT
    assert [entry["choosable"] for entry in client.get("/variants").json()["variants"]] == [False, False, True, False]


def test_a_failure_counts_for_the_variant_that_was_chosen_or_for_none(keyed):
    def fail(path: str, status: int, **headers: str) -> None:
        assert keyed.post(path, content=b"no image", headers=JPEG | headers).status_code == status

    fail("/recognize", 400)
    fail("/recognize?variant=other", 400)
    fail("/v2/models/other/infer", 400)
    fail("/recognize?variant=nobody", 404)
    fail("/recognize?top_k=many", 422)
    fail("/recognize?variant=other", 401, Authorization="Bearer of none")
    counted = keyed.get("/metrics").text
    for backend, cause in [
        ("tiny", "undecodable_image"),
        ("other", "undecodable_image"),
        ("other", "malformed_body"),
        ("none", "no_such_variant"),
        ("none", "bad_parameter"),
        ("none", "bad_key"),
    ]:
        assert f'lpr_errors_total{{backend="{backend}",cause="{cause}"}} 1.0' in counted
    assert 'lpr_errors_total{backend="other",cause="internal"} 0.0' in counted  # there before it counts
    assert 'lpr_request_seconds_count{backend="other"} 2.0' in counted
    assert 'lpr_request_seconds_count{backend="none"}' not in counted


def test_another_variant_is_activated(keyed):
    listing = activate(keyed, "other").json()
    assert listing["active"] == "other"
    assert [entry["variant"] for entry in listing["variants"] if entry["loaded"]] == ["other"]
    assert text(keyed) == OTHER_TEXT
    assert keyed.get("/model").json()["variant"] == "other"
    assert keyed.get("/readyz").status_code == 200
    metrics = keyed.get("/metrics").text
    assert 'lpr_plates_total{backend="other"} 1.0' in metrics
    assert activate(keyed, "tiny").json()["active"] == "tiny"
    assert text(keyed) == TINY_TEXT


def test_a_failed_activation_keeps_the_active_variant_and_says_why(keyed, several):
    assert "wrong/probe.npz: onnxruntime" in problem(activate(keyed, "wrong"), 409, errors.VariantUnusable)
    assert "not JSON" in problem(activate(keyed, "broken"), 409, errors.VariantUnusable)
    assert "installed are" in problem(activate(keyed, "none"), 404, errors.NoSuchVariant)
    assert text(keyed) == TINY_TEXT
    for file in ("model.onnx", "probe.npz"):
        shutil.copy(several / "tiny" / file, several / "wrong")
    write(several / "wrong", describe("wrong"))
    assert activate(keyed, "wrong").status_code == 200  # it is tried again
    assert keyed.get("/variants").json()["variants"][3]["problem"] is None


def test_the_active_variant_can_be_replaced_on_disk_and_activated_again(keyed, several):
    shutil.rmtree(several / "tiny")
    (several / "tiny").mkdir()
    save_tiny_model(several / "tiny", OTHER_TEXT)
    write(several / "tiny", describe("tiny").model_copy(update={"version": "2"}))
    assert text(keyed) == TINY_TEXT  # what is loaded stays
    assert activate(keyed, "tiny").json()["variants"][2]["version"] == "2"
    assert text(keyed) == OTHER_TEXT
    assert keyed.get("/model").json()["version"] == "2"


def test_a_switch_is_kept_over_a_restart_and_followed_by_other_processes(serving, several, tmp_path):
    switch_file = tmp_path / "switch"
    clients = [serving(artifacts=several, api_keys=KEY, switch_file=switch_file) for _ in range(2)]
    for client in clients:
        client.headers.update(AUTHORIZED)
    assert activate(clients[0], "other").status_code == 200
    eventually(lambda: text(clients[1]) == OTHER_TEXT)
    assert 'lpr_model_info{backend="other"' in clients[1].get("/metrics").text
    assert activate(clients[1], "tiny").status_code == 200
    eventually(lambda: text(clients[0]) == TINY_TEXT)
    assert activate(clients[0], "wrong").status_code == 409
    assert activate(clients[0], "other").status_code == 200
    restarted = serving(artifacts=several, api_keys=KEY, switch_file=switch_file)
    restarted.headers.update(AUTHORIZED)
    assert text(restarted) == OTHER_TEXT
    assert restarted.get("/model").json()["variant"] == "other"
    assert 'lpr_plates_total{backend="other"} 1.0' in restarted.get("/metrics").text


def test_a_switch_that_cannot_be_kept_is_not_made(serving, several, tmp_path):
    (folder := tmp_path / "folder").mkdir()
    client = serving(artifacts=several, api_keys=KEY, switch_file=folder / "switch")
    folder.rmdir()
    client.headers.update(AUTHORIZED)
    assert "LPR_SWITCH_FILE" in problem(activate(client, "other"), 409, errors.VariantUnusable)
    assert text(client) == TINY_TEXT


def test_a_request_is_read_by_the_variant_that_was_active_when_it_came(keyed):
    image = encode()
    head = f"POST /recognize HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {len(image)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", keyed.base_url.port or 0), timeout=60) as connection:
        connection.sendall(head.encode() + image[:100])
        eventually(lambda: 'lpr_requests_in_flight{backend="tiny"} 1.0' in keyed.get("/metrics").text)
        assert activate(keyed, "other").status_code == 200
        assert text(keyed) == OTHER_TEXT
        connection.sendall(image[100:])
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["results"][0]["plates"][0]["text"] == TINY_TEXT


def test_no_request_is_lost_while_variants_switch(keyed):
    image, done = encode(".png", picture(400, 200)), threading.Event()

    def post(_: int) -> list[tuple[int, str]]:
        answers = []
        while not done.is_set():
            answer = keyed.post("/recognize", content=image, headers={"Content-Type": "image/png"})
            plates = answer.json()["results"][0]["plates"] if answer.status_code == 200 else []
            answers.append((answer.status_code, plates[0]["text"] if plates else ""))
        return answers

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(post, number) for number in range(4)]
        switched = [activate(keyed, name).status_code for name in ("other", "tiny") * 4]
        done.set()
    answers = [answer for client in clients for answer in client.result()]
    assert switched == [200] * 8
    assert set(answers) == {(200, TINY_TEXT), (200, OTHER_TEXT)}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": ""},
    ],
)
def test_without_the_key_nothing_is_read_or_changed(locked, headers):
    for path in ("/recognize", "/variants/tiny/activate"):
        response = locked.post(path, content=encode(), headers=JPEG | headers)
        problem(response, 401, errors.BadKey)
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/docs", "/healthz", "/readyz", "/model", "/variants", "/metrics"):
        assert locked.get(path).status_code == 200


@pytest.mark.parametrize("headers", [AUTHORIZED, {"authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}])
def test_with_one_of_the_keys_it_is_read(locked, headers):
    assert locked.post("/recognize", content=encode(), headers=JPEG | headers).status_code == 200


def test_the_documentation_asks_for_a_key_where_there_are_keys(client, serving, several):
    def guarded(server: httpx.Client) -> set[str]:
        paths = server.get("/openapi.json").json()["paths"]
        return {path for path, operations in paths.items() if any("security" in each for each in operations.values())}

    keyed = serving(artifacts=several, api_keys=KEY)
    assert guarded(keyed) == {"/recognize", "/redact", "/variants/{name}/activate", "/v2/models/{name}/infer"}
    assert keyed.get("/openapi.json").json()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert guarded(client) == set()


def test_a_server_without_keys_lets_nobody_switch(client):
    assert "LPR_API_KEYS" in problem(activate(client, "tiny"), 403, errors.Forbidden)


ADMIN = "an administrator's key"


@pytest.mark.parametrize(
    ("settings", "reader", "admin"),
    [
        ({"api_keys": KEY, "admin_keys": ADMIN}, 403, 200),
        ({"api_keys": KEY, "admin_keys": ADMIN, "host": "0.0.0.0"}, 403, 200),
        ({"api_keys": KEY}, 200, 401),
        ({"api_keys": KEY, "host": "0.0.0.0"}, 403, 401),
        ({"admin_keys": ADMIN}, 401, 200),
        ({}, 403, 403),
        ({"host": "0.0.0.0"}, 403, 403),
    ],
)
def test_who_may_switch(serving, settings, reader, admin):
    client = serving(**settings)
    assert activate(client, "tiny").status_code == reader
    response = client.post("/variants/tiny/activate", headers={"X-API-Key": ADMIN})
    assert response.status_code == admin
    if reader == 403:
        assert "LPR_ADMIN_KEYS" in problem(activate(client, "tiny"), 403, errors.Forbidden)


def test_administrators_may_read_too_and_without_other_keys_anybody(serving):
    def read(client: httpx.Client, key: str) -> int:
        return client.post("/recognize", content=encode(), headers=JPEG | {"X-API-Key": key}).status_code

    both, admins = serving(api_keys=KEY, admin_keys=ADMIN), serving(admin_keys=ADMIN)
    assert [read(both, key) for key in (KEY, ADMIN, "")] == [200, 200, 401]
    assert [read(admins, key) for key in (KEY, ADMIN, "")] == [200, 200, 200]
    document = admins.get("/openapi.json").json()["paths"]
    assert [
        path for path, operations in document.items() if any("security" in each for each in operations.values())
    ] == ["/variants/{name}/activate"]


def test_keys_do_not_show_in_settings_and_short_ones_are_refused():
    settings = Settings(api_keys=KEY)
    assert KEY not in repr(settings) + str(settings.model_dump_json())
    with pytest.raises(ValidationError, match="at least 16 characters") as refusal:
        Settings(api_keys=f"{KEY},brief")
    assert "brief" not in str([error["msg"] for error in refusal.value.errors()])  # which is what is printed
