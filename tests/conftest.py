"""Fixtures: artifacts (every published one, and a tiny real one), and real servers that run them."""

import gc
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import httpx
import hypothesis
import pytest

from service import backends
from service.artifact import (
    Artifact,
    Origin,
    read,
    readers,
    write,
)
from service.settings import Settings
from tests.support.artifacts import (
    EACH_PUBLISHED,
    MEASURED,
    OTHER_TEXT,
    PUBLISHED,
    TINY_TEXT,
    describe,
    save_tiny_model,
    save_torch_model,
)
from tests.support.servers import Gate, Serving, running

hypothesis.settings.register_profile("untimed", deadline=None)  # speed is measured by `make bench`
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays, so it is never looked through for garbage: torch and TVM are 340,000 objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def normal_floats() -> Iterator[None]:
    """Inference and training flush denormals on the thread they run on; other tests need them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with the variant `tiny` in it. Copy before changing anything."""
    root = tmp_path_factory.mktemp("artifacts")
    (root / "tiny").mkdir()
    save_tiny_model(root / "tiny")
    write(root / "tiny", describe())
    return root


@pytest.fixture(scope="session")
def originals(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artifact, another one that reads another text, and a third that does not compute its probe."""
    root = tmp_path_factory.mktemp("variants")
    shutil.copytree(artifacts / "tiny", root / "tiny")
    for name, text in (("other", OTHER_TEXT), ("wrong", TINY_TEXT)):
        (root / name).mkdir()
        save_tiny_model(root / name, text)
    shutil.copy(root / "other" / "probe.npz", root / "wrong")
    write(root / "other", describe("other").model_copy(update={"measured": MEASURED}))
    write(root / "wrong", describe("wrong"))
    (root / "broken").mkdir()
    (root / "broken" / "manifest.json").write_text("{")
    return root


@pytest.fixture(scope="session")
def tiny(artifacts: Path) -> Artifact:
    """The tiny artifact."""
    return read(artifacts / "tiny")


@pytest.fixture(scope="session")
def torch_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny artifact of torch."""
    folder = tmp_path_factory.mktemp("torch") / "tiny"
    folder.mkdir()
    save_torch_model(folder)
    return write(folder, describe().model_copy(update={"backend": "torch"}))


@pytest.fixture(scope="session", params=["tiny", "torch_artifact", *EACH_PUBLISHED])
def artifact(request: pytest.FixtureRequest) -> Artifact:
    """Every artifact there is, one after the other."""
    if request.param in readers(PUBLISHED):
        return read(PUBLISHED / request.param)
    return cast(Artifact, request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def small_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with a small LPRNet as `baseline`, a tenth of its classifier 0. Change nothing in it."""
    import torch

    from model_builder.candidates import torch_candidate
    from model_builder.networks.reader import LPRNet
    from model_builder.plates.kinds import ALPHABET as CHARACTERS
    from model_builder.publish import publish
    from tests.support.crops import WIDTHS

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("small")
    network = LPRNet(len(CHARACTERS) + 1, WIDTHS).eval()
    with torch.no_grad():
        network.classify.weight.view(-1)[::10] = 0
    publish(root, torch_candidate("baseline", network, Origin(seed=0)), {})
    return root


@pytest.fixture(scope="session")
def small_variants(small_baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small baseline, and the same as float ONNX under the name `quantized`. Change nothing in it."""
    from model_builder.candidates import load_network, onnx_candidate
    from model_builder.graph.trace import trace
    from model_builder.networks.reader import SIZE
    from model_builder.publish import publish

    root = Path(shutil.copytree(small_baseline, tmp_path_factory.mktemp("variants") / "small"))
    network = load_network(read(root / "baseline"))
    publish(root, onnx_candidate("quantized", trace(network.eval(), SIZE), Origin(seed=0)), {})
    return root


@pytest.fixture(scope="session")
def serving(artifacts: Path) -> Iterator[Serving]:
    """Starts a server of the tiny artifact with the given settings, and returns a client of it."""
    with ExitStack() as stack:

        def serve(**settings: object) -> httpx.Client:
            url = stack.enter_context(
                running(Settings(**{"variant": "tiny", "artifacts": artifacts, "threads": 1, **settings}))
            )
            return stack.enter_context(httpx.Client(base_url=url, timeout=30))

        yield serve


@pytest.fixture(scope="session")
def client(serving: Serving) -> httpx.Client:
    """A client of a server with default limits."""
    return serving()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before every engine that is loaded from now on."""
    gate, load = Gate(), backends.load
    monkeypatch.setattr(backends, "load", lambda artifact: gate.guard(load(artifact)))
    yield gate
    gate.open()
