"""Run of `lpr watch`: from its options to cameras, engines and receivers."""

import argparse
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.errors import BadParameter, brief, printable
from service.settings import Settings, WatchSettings, warnings
from service.video.crops import Crops
from service.video.engines import Engines
from service.video.events import Event
from service.video.lists import read
from service.video.messages import say
from service.video.mqtt import Mqtt, broker
from service.video.outbox import Outbox, Receiver
from service.video.passages import Rules
from service.video.receivers import JsonLines, Webhook
from service.video.sources import Source, parse
from service.video.watch import Options, Watch

DRAIN_S: Final = 10.0  # seconds at the end in which receivers may take what waits
DONE, SOME_NOT_READ = 0, 1


def run(options: argparse.Namespace) -> int:
    """Watch until the ends of all files, or until a signal; returns the exit status."""
    sources = [parse(text) for text in options.sources]
    for sentence in warnings():
        say(sentence)
    with _engines() as engines:
        chosen = Options(
            options.fps,
            options.realtime,
            Rules(options.min_confidence, options.after, options.again),
            read(options.list, engines.manifest.alphabet),
            Crops(options.keep_crops, options.retain) if options.keep_crops else None,
        )
        with _telling(options, sources) as tell:
            watch = Watch(sources, engines, lambda event, _: tell(event), chosen)
            with _stopped_by_signals(watch.stop):
                return DONE if watch.run() else SOME_NOT_READ


def _engines() -> Engines:
    """Those that the settings name."""
    settings = Settings()
    return Engines(settings.artifacts, settings.variant, settings.finder, settings.regions)


@contextmanager
def _telling(options: argparse.Namespace, sources: list[Source]) -> Iterator[Callable[[Event], None]]:
    """What takes events: the outbox first, then stdout."""
    receivers = _receivers(options, [source.name for source in sources])
    # without receivers, too, an earlier run's events may be there
    outbox = Outbox(options.queue, receivers) if receivers or options.queue.is_file() else None
    for name, count in outbox.left_over.items() if outbox else ():
        delete = f"delete from events where receiver = '{name}'"  # noqa: S608 (it is told, not run)
        say(
            f"{count} events wait in {options.queue} for --{name}, which is not named now: name it again, or delete "
            f'them with sqlite3 {shlex.quote(str(options.queue))} "{delete}"'
        )

    def tell(event: Event) -> None:
        body = event.model_dump_json()
        for name, reason in outbox.accept(body).items() if outbox else ():
            say(f"{name}: {reason}: event {event.id} is lost")
        if not options.quiet:
            try:
                print(printable(body), flush=True)
            except BrokenPipeError:  # whoever read the output has seen enough
                raise
            except OSError as error:
                say(f"event {event.id} cannot be written to stdout: {error.strerror}")

    try:
        yield tell
    finally:
        if outbox:
            left = outbox.drain(DRAIN_S)
            outbox.close()
            if left:
                say(f"{left} events wait in {options.queue} for the next start")


def _receivers(options: argparse.Namespace, cameras: list[str]) -> dict[str, Receiver]:
    settings, found = WatchSettings(), dict[str, Receiver]()
    if options.events:
        _check_appends(options.events)
        found["events"] = JsonLines(options.events)
    if options.webhook:
        secret = settings.webhook_secret
        found["webhook"] = Webhook(options.webhook, secret.get_secret_value().encode() if secret else None)
    if options.mqtt:
        password = settings.mqtt_password
        found["mqtt"] = Mqtt(broker(options.mqtt, password.get_secret_value() if password else None), cameras)
    return found


def _check_appends(file: Path) -> None:
    try:
        file.open("a+b").close()
    except OSError as error:
        raise BadParameter(
            f"Events cannot be appended to {file} ({error.strerror or brief(error)}): "
            "name a file in a folder that is there and can be written."
        ) from error


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the watching, and the plates that are seen are told."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
