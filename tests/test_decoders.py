"""What decoders print on standard error is left out; all else is passed on, and Python's own lines go past the pipe."""

import os
import pty
import subprocess
import sys

from service.settings import REPOSITORY

PROGRAM = """
import os, sys
from service.decoders import filtered
with filtered():
    os.write(2, b"Corrupt JPEG data: premature end of da")
    os.write(2, b"ta segment\\nlibpng error: IDAT: CRC error\\na library\\n")
    print("terminal:", sys.stderr.isatty(), file=sys.stderr)
os.write(2, b"the end\\n")
print("of Python", file=sys.stderr)
"""


def test_only_what_decoders_say_is_left_out():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert sorted(lines[:2]) == ["a library", "terminal: False"], "two threads write them"
    assert lines[2:] == ["the end", "of Python"]


def test_a_terminal_is_seen_meanwhile():
    terminal, end = pty.openpty()
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, stderr=end, timeout=60, check=True)
    os.close(end)
    assert b"terminal: True" in os.read(terminal, 4096)
    os.close(terminal)


def test_a_library_is_never_kept_waiting_and_a_closed_stream_does_no_harm():
    flood = (
        "import os\n"
        "from contextlib import suppress\n"
        "from service.decoders import filtered\n"
        "with filtered():\n"
        "    for _ in range(10_000):\n"
        "        with suppress(BlockingIOError, OSError):\n"
        "            os.write(2, b'x' * 4096)\n"
        "print('done')\n"
    )
    read, write = os.pipe()  # nobody reads
    done = subprocess.run(
        [sys.executable, "-c", flood], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=write, timeout=60
    )
    os.close(read)
    os.close(write)
    assert done.stdout == b"done\n"
    command = ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", flood]
    assert subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, timeout=60).stdout == b"done\n"
