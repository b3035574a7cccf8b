"""The model behind BentoML, in LPR_WORKERS processes.

`bentoml serve model_builder.measure.load.peers.bentoml_peer:Plates` runs it.
As its documentation recommends: adaptive batching, a file as the part of a form.
"""

from pathlib import Path
from typing import Any

import bentoml

from model_builder.measure.load.peers.common import MAX_BATCH, Model, quiet
from model_builder.team import Team
from service.settings import Settings

# Where it expects to need longer, it answers 503. It must be long enough not to refuse what a p99 of 25 ms allows, and
# short enough to refuse under overload.
MAX_LATENCY_MS = 250


@bentoml.service(workers=Settings().workers, traffic={"timeout": 30})
class Plates:
    """One request is one image."""

    def __init__(self) -> None:
        quiet()
        self.model = Model()
        # Its methods run on any thread of a pool, an engine on one: a team of one is an engine that any may call.
        self.engine = Team(self.model.artifact, 1)

    @bentoml.api(route="/recognize", batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=MAX_LATENCY_MS)
    def recognize(self, image: list[Path]) -> list[dict[str, Any]]:
        """Gets the files of several requests."""
        return self.model.answers(self.engine, [self.model.crop(path.read_bytes()) for path in image])
