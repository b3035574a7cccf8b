"""Server processes: ours, its peers, and one that does nothing; what they use, and whether they read alike."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from service.settings import REPOSITORY

START_S = 120  # torch alone takes several seconds to be imported
STOP_S = 20
PEERS = "model_builder.measure.load.peers"
PORT = "{port}"  # in a command or an environment variable: the port to listen on


@dataclass(frozen=True)
class Server:
    """How to start a server: the command and variables, `{port}` among them, and where it tells that it is well."""

    name: str
    command: tuple[str, ...]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """Seconds of CPU so far and bytes of memory of a process and all its children, what they share counted once."""

    cpu_s: float
    memory: int


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    process: psutil.Process
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def usage(self) -> Usage:
        """What it uses now."""
        cpu, memory = 0.0, 0
        for process in self.processes():
            try:
                times = process.cpu_times()
                memory += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
            cpu += times.user + times.system
        return Usage(cpu, memory)

    def processes(self) -> list[psutil.Process]:
        """The server's process and all below it."""
        return [self.process, *self.process.children(recursive=True)]

    def texts(self, image: bytes) -> list[str]:
        """What it reads on one JPEG, whatever the shape of its answer; no empty text."""
        answer = httpx.post(f"{self.url}/recognize", files={"image": ("plate.jpg", image, "image/jpeg")}, timeout=30)
        answer.raise_for_status()
        found = answer.json()
        if isinstance(found, list):  # BentoML
            (found,) = found
        (found,) = found.get("results", [found])
        return [plate["text"] for plate in found.get("plates", [found]) if plate["text"]]


def ours(variant: str, **settings: str) -> Server:
    """`python -m service` with the variant and other settings, such as workers="2"; without a finder where they name
    none, so that an image is a crop."""
    chosen = {"VARIANT": variant, "FINDER": "", "PORT": PORT, "NOTICE_S": "0"} | {
        key.upper(): text for key, text in settings.items()
    }
    environment = {f"LPR_{name}": value for name, value in chosen.items()}
    return Server("lpr", (sys.executable, "-m", "service"), "/readyz", environment)


def litserve(variant: str, **settings: str) -> Server:
    """LitServe with the same artifact and as many workers as ours."""
    command = (sys.executable, "-m", f"{PEERS}.litserve_peer", PORT)
    return Server(
        f"LitServe {version('litserve')}",
        command,
        "/health",
        dict(ours(variant, **settings).environment) | {"LPR_PORT": "0"},
    )


def bentoml(variant: str, **settings: str) -> Server:
    """BentoML with the same artifact and as many workers as ours."""
    command = (
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        f"{PEERS}.bentoml_peer:Plates",
        "--host",
        "127.0.0.1",
    )
    environment = dict(ours(variant, **settings).environment) | {
        "LPR_PORT": "0",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(Path(tempfile.gettempdir()) / f"bentoml-{os.getuid()}"),
    }
    return Server(f"BentoML {version('bentoml')}", (*command, "--port", PORT), "/readyz", environment)


def trivial() -> Server:
    """Answers at once, and reads nothing."""
    return Server("nothing", (sys.executable, "-m", f"{PEERS}.trivial", PORT), "/")


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start a server, wait until it is well, and end it with all its children; raises RuntimeError with its log."""
    port = free_port()
    command = [word.replace(PORT, str(port)) for word in server.command]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LPR_")}
    chosen = {name: value.replace(PORT, str(port)) for name, value in server.environment.items()}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=inherited | {"PYTHONPATH": paths} | chosen, stdout=log, stderr=log
        )
        found = Running(server, psutil.Process(process.pid), port)
        try:
            if not _well(found, process):
                log.seek(0)
                raise RuntimeError(f"{server.name} did not start; it said:\n{log.read()}")
            yield found
        finally:
            _stop(found, process)


def _well(found: Running, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(found.url + found.server.health, timeout=5).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    return False


def _stop(found: Running, process: "subprocess.Popen[bytes]") -> None:
    try:
        family = found.processes()
    except psutil.NoSuchProcess:
        family = []
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_S)
    for left in alive:
        left.kill()
    process.wait()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
