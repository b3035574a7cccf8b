"""`python -m service` as a process, and programs that some tests drive."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.settings import REPOSITORY

VARIANT = "quantized"  # its engine starts the fastest
HEAD = b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
COMMAND = [sys.executable, "-m", "service"]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def environment(artifacts: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LPR_")}
    chosen = {"VARIANT": "tiny", "ARTIFACTS": str(artifacts), "PORT": "0", "THREADS": "1", **settings}
    return inherited | {f"LPR_{name}": value for name, value in chosen.items()}


class Process:
    """A server process and what it says on stderr."""

    def __init__(self, env: dict[str, str], command: list[str] = COMMAND, folder: Path = REPOSITORY) -> None:
        self.process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.url = found[1]
                break
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rsplit(":", 1)[1])))

    def refuses_connections(self) -> bool:
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@contextmanager
def started(artifacts: Path, command: list[str] = COMMAND, **settings: str) -> Iterator[Process]:
    process = Process(environment(artifacts, **settings), command)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def refuse(env: dict[str, str]) -> str:
    """Start a server that must not start; returns what it says."""
    done = subprocess.run(COMMAND, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def program(name: str) -> str:
    """Where a program is that some tests drive; skips the test if it is nowhere."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"there is no {name}: make tools")
    return found
