"""The model behind LitServe: `python -m model_builder.measure.load.peers.litserve_peer PORT`, with LPR_WORKERS workers.

As its documentation recommends: batching on, an image as the part of a form, `fast_queue` (ZeroMQ) between processes.
"""

import sys
from collections.abc import Sequence

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from model_builder.measure.load.peers.common import MAX_BATCH, Finder, Model, quiet
from service import backends
from service.settings import Settings

# Its documentation's examples wait 10 ms and more for a batch to fill. With 0 the idle workers would poll without a
# pause, and a longer wait would only add to each answer.
BATCH_TIMEOUT_S = 0.002


class Plates(litserve.LitAPI):  # type: ignore[misc]
    """One request is one image."""

    def setup(self, device: str) -> None:
        """Runs in the worker."""
        quiet()
        self.model = Model()
        self.engine = backends.load(self.model.artifact)
        self.model.prove(self.engine)

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        """Gets the form."""
        return self.model.crop(request["image"].file.read())  # type: ignore[index]

    def predict(self, batch: NDArray[np.uint8]) -> Sequence[dict[str, object]]:
        """Crops to answers."""
        return self.model.answers(self.engine, batch)

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """It is JSON already."""
        return output


class Photographs(litserve.LitAPI):  # type: ignore[misc]
    """One request is one photograph. They are not batched: the networks gain nothing by it, and each would wait."""

    def setup(self, device: str) -> None:
        """Runs in the worker."""
        quiet()
        model = Model()
        self.engine = backends.load(model.artifact)
        model.prove(self.engine)
        self.finder = Finder(model)

    def decode_request(self, request: Request) -> bytes:
        """Gets the form."""
        return request["image"].file.read()  # type: ignore[index]

    def predict(self, photograph: bytes) -> dict[str, object]:
        """A photograph to an answer."""
        return self.finder.answer(self.engine, photograph)

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """It is JSON already."""
        return output


def main() -> None:
    """Serve on the port given until a signal: photographs where LPR_FINDER names a finder, else crops of plates."""
    if Settings().finder:
        api: litserve.LitAPI = Photographs(api_path="/recognize")
    else:
        api = Plates(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/recognize")
    litserve.server._MCP_AVAILABLE = False  # it fails where `mcp` is installed without `fastmcp`
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=Settings().workers, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
