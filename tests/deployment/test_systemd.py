"""The unit for one machine: checked by systemd itself, without running it."""

import re
import subprocess
import sys
from pathlib import Path

from service.process.workers import GRACE_S
from service.settings import Settings
from tests.support.processes import program
from tests.support.prometheus import DOCKER

UNIT = DOCKER / "systemd" / "lpr.service"
MOST_EXPOSED = 15  # of 100; systemd calls more than 20 no longer "safe"


def analyze(*arguments: str | Path) -> str:
    """What systemd-analyze says to a check that it must pass."""
    done = subprocess.run([program("systemd-analyze"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def directive(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    return value


def test_systemd_understands_every_line(tmp_path):
    installed = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    installed.write_text(text.replace("/opt/lpr/bin", str(Path(sys.executable).parent)), encoding="utf-8")
    assert analyze("verify", installed) == ""


def test_the_unit_exposes_little():
    analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", UNIT)


def test_it_has_the_time_to_stop_and_does_not_repeat_what_cannot_start():
    assert int(directive("TimeoutStopSec")) > Settings.model_fields["drain_s"].default + GRACE_S
    assert directive("RestartPreventExitStatus") == "2"
