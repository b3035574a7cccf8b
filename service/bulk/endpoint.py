"""A deployment for Ray Serve: `serve run service.bulk.endpoint:app` answers a POST of an image with its plates."""

import asyncio
from typing import Any

from ray import serve
from starlette.requests import Request

from service.errors import InputError
from service.reader import Reader


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Plates:
    """A replica: an engine of one thread, with the settings LPR_* of its process."""

    def __init__(self) -> None:
        self.reader = Reader()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """The plates on the image that is the body."""
        try:
            plates = await asyncio.to_thread(self.reader.read, await request.body())
        except InputError as error:
            return {"plates": [], "error": str(error)}
        return {"plates": [plate.model_dump() for plate in plates], "error": None}


app = Plates.bind()  # type: ignore[attr-defined]
