"""`python -m service`: settings from the environment, then serve until a signal."""

import argparse
import sys

from pydantic import ValidationError

from service import logs
from service.errors import ArtifactError
from service.process.listeners import NoPort
from service.process.server import REFUSED, serve
from service.process.workers import Workers
from service.settings import Settings, faults, listing, warnings


def main() -> int:
    """The command `python -m service`; returns the exit status of `run`."""
    argparse.ArgumentParser(
        prog="python -m service",
        description="Reads licence plates over HTTP. All that can be chosen is in environment variables:",
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    return run()


def run() -> int:
    """Serve; the exit status is 0 after a graceful end, REFUSED with a sentence on stderr if it cannot start."""
    logs.open_missing()
    for sentence in warnings():
        print(f"WARNING:  {sentence}", file=sys.stderr)
    try:
        settings = Settings()
        return serve(settings) if settings.workers == 1 else Workers(settings).run()
    except ValidationError as error:
        print("\n".join(faults(error)), file=sys.stderr)
    except (ArtifactError, NoPort) as error:
        print(error, file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
