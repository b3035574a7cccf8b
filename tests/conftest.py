"""Fixtures: artifacts (every published one, and a tiny real one), and real servers that run them."""

import os
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from service import backends
from service.app import create_app
from service.artifact import (
    Artifact,
    Description,
    Format,
    Grammar,
    Latency,
    Measured,
    Probe,
    Provenance,
    Score,
    Tensor,
    read,
    variants,
    write,
    write_probe,
)
from service.backends import Backend
from service.process.server import connections
from service.settings import REPOSITORY, Settings

PUBLISHED = REPOSITORY / "artifacts"
TINY_TEXT, OTHER_TEXT = "京A12345", "沪B54321"
ALPHABET = "京沪0123456789ABCDE"
FRAMES = 20

MEASURED = Measured(
    accuracy={"some": Score(exact=9, total=10, low=0.6, high=0.98)},
    latency_ms=Latency(median=1, p95=2, threads=1, batch=1, repeats=1),
    size_bytes=1,
    parameters=1,
    multiply_adds=1,
    machine="x",
)

Serving = Callable[..., httpx.Client]


def describe(variant: str = "tiny", size: tuple[int, int] = (24, 94)) -> Description:
    """What the builder would say about the tiny model."""
    template = ("京沪", "ABCDE", *["0123456789ABCDE"] * 5)
    return Description(
        variant=variant,
        version="1",
        backend="torch",
        input=Tensor(dtype="uint8", shape=("N", *size, 3), description="BGR crops"),
        output=Tensor(dtype="float32", shape=("N", FRAMES, len(ALPHABET) + 1), description="logits"),
        alphabet=ALPHABET,
        blank=len(ALPHABET),
        grammar=Grammar(formats=(Format(name="cn-standard", templates=(template,)),)),
        max_batch=8,
        probe=Probe(tolerance=1e-4),
        provenance=Provenance(commit="none", created=datetime.now(UTC), seed=0, arguments={}, libraries={}),
    )


def save_tiny_model(folder: Path, text: str = TINY_TEXT, size: tuple[int, int] = (24, 94)) -> None:
    """Export a real, small convolutional network that reads `text` on whatever it sees, and its probe."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, len(ALPHABET) + 1, 3, padding=1)
            path = torch.full((FRAMES,), len(ALPHABET))
            path[1 : 2 * len(text) : 2] = torch.tensor([ALPHABET.index(char) for char in text])
            self.register_buffer("text", 12.0 * torch.nn.functional.one_hot(path))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            planes = (images.permute(0, 3, 1, 2).float() - 127.5) / 128
            features = torch.nn.functional.adaptive_avg_pool2d(self.conv(planes), (1, FRAMES))
            return features.squeeze(2).permute(0, 2, 1) + self.text

    torch.manual_seed(0)
    model = Tiny().eval()
    batch = torch.export.Dim("N", min=1, max=8)
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), np.uint8)
    with torch.no_grad():
        program = torch.export.export(model, (torch.from_numpy(images),), dynamic_shapes=({0: batch},))
        write_probe(folder, images, model(torch.from_numpy(images)).numpy())
    torch.export.save(program, folder / "model.pt2")


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


@pytest.fixture(scope="session", params=["tiny", *variants(PUBLISHED)])
def artifact(request: pytest.FixtureRequest, artifacts: Path) -> Artifact:
    """Every artifact there is, one after the other."""
    return read((artifacts if request.param == "tiny" else PUBLISHED) / request.param)


@pytest.fixture(scope="session")
def small_variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with a small LPRNet as `baseline`, a tenth of its classifier 0, and the same as float ONNX
    under the name `quantized`. Change nothing in it."""
    import torch

    from model_builder.compress import quantize
    from model_builder.graph.trace import trace
    from model_builder.networks.reader import SIZE, LPRNet, Widths
    from model_builder.plates.kinds import ALPHABET as CHARACTERS
    from model_builder.candidates import torch_candidate
    from model_builder.publish import publish

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("small")
    network = LPRNet(len(CHARACTERS) + 1, Widths(4, (6,), (8, 8), (10,), 10, 8)).eval()
    with torch.no_grad():
        network.classify.weight.view(-1)[::10] = 0
    publish(root, torch_candidate("baseline", network, seed=0, arguments={}), {})
    publish(root, quantize.candidate("quantized", trace(network, SIZE), seed=0, arguments={}), {})
    return root


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """A real server of these settings on a free port, in a thread of this process; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings), port=0, http=connections(settings), ws="none", access_log=False, log_level="error"
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serving(artifacts: Path) -> Iterator[Serving]:
    """Starts a server of the tiny artifact with the given settings, and returns a client of it."""
    with ExitStack() as stack:

        def serve(**settings: object) -> httpx.Client:
            url = stack.enter_context(
                running(Settings(**{"backend": "tiny", "artifacts": artifacts, "threads": 1, **settings}))
            )
            return stack.enter_context(httpx.Client(base_url=url, timeout=30))

        yield serve


@pytest.fixture(scope="session")
def client(serving: Serving) -> httpx.Client:
    """A client of a server with default limits."""
    return serving()


class Gate:
    """Holds engines back before they compute, and knows what came in."""

    def __init__(self) -> None:
        self.batches: list[int] = []  # images of each batch that came to the gate
        self._open = threading.Event()
        self._changed = threading.Condition()

    def open(self) -> None:
        """Let all go on, from now on without holding any."""
        self._open.set()

    def wait_for(self, batches: int) -> None:
        """Wait until so many batches have come, but not for ever."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= batches, timeout=60)

    def guard(self, engine: Backend) -> Backend:
        """The same engine behind this gate. Its first batch is the probe and passes."""
        infer, probed = engine.infer, threading.Event()

        def guarded(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            if probed.is_set():
                with self._changed:
                    self.batches.append(len(batch))
                    self._changed.notify_all()
                assert self._open.wait(timeout=60)
            probed.set()
            return infer(batch)

        engine.infer = guarded  # type: ignore[method-assign]
        return engine


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before every engine that is loaded from now on."""
    gate, load = Gate(), backends.load
    monkeypatch.setattr(backends, "load", lambda artifact: gate.guard(load(artifact)))
    yield gate
    gate.open()


def program(name: str) -> str:
    """Where a program is that some tests drive; skips the test if it is nowhere."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"there is no {name}: make tools")
    return found


def picture(width: int = 94, height: int = 24) -> NDArray[np.uint8]:
    """A smooth colourful BGR image."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * 255) // width, (y * 255) // height, ((x + y) * 255) // (width + height)]
    return np.stack(planes, axis=2).astype(np.uint8)


def encode(extension: str = ".jpg", image: NDArray[np.generic] | None = None) -> bytes:
    """An image file's bytes."""
    return cv2.imencode(extension, picture() if image is None else image)[1].tobytes()


def png_bomb(side: int = 50_000) -> bytes:
    """The beginning of a PNG whose header announces `side` x `side` pixels."""
    data = bytearray(encode(".png"))[:64]
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)
