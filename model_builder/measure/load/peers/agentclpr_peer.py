"""AgentCLPR, which finds and reads Chinese plates, as a child process: `python -m ...peers.agentclpr_peer`.

It takes the path of a photograph a line, and answers a line of JSON: `ms` from the file's bytes to the texts, and
`texts`. It computes on one thread. `pip install --no-deps agentclpr==1.1.0 agentocr==2.0.0` installs it: it names
packages that only its own server needs, and another build of OpenCV.
"""

import json
import sys
import time
import types
from pathlib import Path

import cv2
import numpy
import onnxruntime


def _adapted() -> None:
    """Give it what it was written for in 2021, and one thread."""
    numpy.int = int
    for name in ("wget", "imghdr"):  # it imports them, and needs neither
        sys.modules.setdefault(name, types.ModuleType(name))
    options = onnxruntime.SessionOptions

    def on_one_thread() -> onnxruntime.SessionOptions:
        made = options()
        made.intra_op_num_threads = made.inter_op_num_threads = 1
        return made

    onnxruntime.SessionOptions = on_one_thread
    cv2.setNumThreads(1)


def main() -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # its messages go there
    _adapted()
    from agentclpr import CLPSystem

    system = CLPSystem()
    for line in sys.stdin:
        data = Path(line.strip()).read_bytes()
        started = time.perf_counter()
        image = cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_COLOR)
        try:
            texts = [text for _, (text, _) in system(image)]
        except Exception as error:  # it fails where a plate lies at the image's edge
            print(f"{line.strip()}: {error}", file=sys.stderr)
            texts = []
        print(json.dumps({"ms": 1e3 * (time.perf_counter() - started), "texts": texts}), file=answers, flush=True)


if __name__ == "__main__":
    main()
