"""What stays of large blocks once they are freed."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np
from service.allocator import LARGE, return_large_blocks

MB = 1 << 20

def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096

if "return" in sys.argv:
    return_large_blocks()
np.ones(30 * MB, np.uint8)  # the largest; glibc now keeps what is smaller
before = resident()
blocks, small = [], []
for _ in range(10):
    blocks.append(np.ones(LARGE + 3 * MB, np.uint8))
    small.append(bytes(100_000))
blocks.clear()
print((resident() - before) // MB)
"""


@pytest.mark.parametrize(("argument", "kept"), [("return", range(8)), ("keep", range(150, 225))])
def test_large_blocks_go_back_to_the_system(argument: str, kept: range) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=True)
    assert int(done.stdout) in kept
