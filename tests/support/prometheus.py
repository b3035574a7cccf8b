"""The deployment's Prometheus rules, and promtool to check them."""

import subprocess
from pathlib import Path

from service.settings import REPOSITORY
from tests.support.processes import program

DOCKER = REPOSITORY / "docker"
RULES = DOCKER / "prometheus" / "rules.yml"


def promtool(*arguments: str | Path) -> str:
    """What promtool says to a check that it must pass."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
