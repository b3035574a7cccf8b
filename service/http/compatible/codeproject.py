"""POST /v1/vision/alpr as CodeProject.AI Server answers it; Blue Iris and Agent DVR call that.

Its reference names `upload`; clients send `image` too, and `min_confidence`. CodeProject.AI has no keys, so its clients
send none: where LPR_API_KEYS is set, they are refused.
"""

import json
from contextlib import suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.errors import BadParameter, LprError
from service.http import error_responses
from service.http.compatible.fields import Fields
from service.http.compatible.reading import Answer, read, upright
from service.http.requests import Plain


async def alpr(request: Request) -> Response:
    """Read the plates on one image."""
    try:
        answer = await read(request)
        content = compose(answer, _least(answer.fields))
    except LprError as error:
        status = error_responses.STATUS[type(error)]
        told = {"success": False, "error": str(error), "code": int(status)}
        return error_responses.foreign(request, error, status, told)
    return Response(json.dumps(content, ensure_ascii=False), media_type="application/json")


def compose(answer: Answer, least: float) -> dict[str, Any]:
    """The documented fields of an answer, with the plates whose text has at least this confidence."""
    plates = [plate for plate in answer.result["plates"] if plate["confidence"] >= least]
    texts = ", ".join(plate["text"] for plate in plates)
    process = round(1e3 * answer.timing.total)
    return {
        "success": True,
        "message": f"Found {texts}" if plates else "No plates found",
        "predictions": [_prediction(plate) for plate in plates],
        "count": len(plates),
        "inferenceMs": round(1e3 * (answer.timing.find + answer.timing.inference)),
        "processMs": process,
        "moduleId": "ALPR",
        "moduleName": "License Plate Reader",
        "command": "alpr",
        "executionProvider": "CPU",
        "canUseGPU": False,
        "analysisRoundTripMs": process,
    }


def _prediction(plate: dict[str, Any]) -> dict[str, Any]:
    box = dict(zip(("x_min", "y_min", "x_max", "y_max"), upright(plate["box"]), strict=True))
    return {"confidence": plate["confidence"], "label": f"Plate: {plate['text']}", "plate": plate["text"], **box}


def _least(fields: Fields) -> float:
    """The least confidence that a request asks for, 0 by default."""
    given = fields.text("min_confidence") or "0"
    with suppress(ValueError):
        if 0 <= (least := float(given)) <= 1:
            return least
    raise BadParameter("The field min_confidence is no number from 0 to 1.")


ROUTES: Final = [Route("/v1/vision/alpr", Plain(alpr), methods=["POST"])]
