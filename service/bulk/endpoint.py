"""A deployment for Ray Serve: `serve run service.bulk.endpoint:app` answers a POST of an image with its plates."""

import asyncio
from typing import Any, Final

from ray import serve
from starlette.requests import Request

from service.errors import InputError
from service.reader import Reader
from service.reading.containers import sniff

NO_IMAGE: Final = (
    "The body is no image that is known: send the image's file as the body, as curl --data-binary @IMAGE does. "
    "Forms and JSON are not read here."
)


@serve.deployment(ray_actor_options={"num_cpus": 1})
class Plates:
    """A replica: an engine of one thread, with the settings LPR_* of its process."""

    def __init__(self) -> None:
        self.reader = Reader()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """The plates on the image that is the body, or the error that kept it from being read."""
        if sniff(body := await request.body()) is None:  # whatever its Content-Type, which for curl is that of a form
            return {"plates": [], "error": NO_IMAGE}
        try:
            plates = await asyncio.to_thread(self.reader.read, body)
        except InputError as error:
            return {"plates": [], "error": str(error)}
        return {"plates": [plate.model_dump() for plate in plates], "error": None}


app = Plates.bind()  # type: ignore[attr-defined]
