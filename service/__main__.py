"""`python -m service`: settings from the environment, then serve until a signal."""

import sys
from contextlib import nullcontext

import uvicorn
from pydantic import ValidationError

from service import access
from service.app import create_app
from service.errors import ArtifactError
from service.server import Server
from service.settings import Settings

REFUSED = 2  # exit status: wrong settings, or an artifact that cannot be served


def main() -> int:
    """Serve; the exit status is 0 after a graceful end, REFUSED with a sentence on stderr if it cannot start."""
    try:
        settings = Settings()
        app = create_app(settings)
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["LPR", *(str(part).upper() for part in problem["loc"])])
            print(f"{name}: {problem['msg']}", file=sys.stderr)
        return REFUSED
    except ArtifactError as error:
        print(error, file=sys.stderr)
        return REFUSED
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_s,
    )
    server = Server(config, app.state.variants.retire, settings.notice_s)
    with access.written_to(sys.stdout.fileno()) if settings.log else nullcontext():
        server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
