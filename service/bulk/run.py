"""`lpr bulk`: partitions of a listing, each read by an actor of Ray and written as one Parquet file.

A part is written under a temporary name and then renamed. So a partition is there whole or not at all: one whose actor
was killed is read again, and a second run of the same command reads only what is missing.
"""

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray tells its makers nothing
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")  # its plans and traces would tear the bar

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from tqdm import tqdm

from service import artifact
from service.bulk.listing import Listing, Place, reaching
from service.bulk.table import rows, schema
from service.errors import BadParameter, BodyTooLarge, LprError, printable
from service.reader import Reader
from service.reading.plates import restrict
from service.settings import Settings

JOB: Final = "_lpr.json"  # in the output: what it is made of; readers of Parquet folders skip names with an underscore
MEMORY: Final = 100_000_000  # bytes of Ray's store on one machine: only names and counts go through it
SETTINGS: Final = ("ARTIFACTS", "FINDER", "MAX_BYTES", "MAX_PIXELS", "REGIONS", "VARIANT")  # of reading; no secret
MOST: Final = 4  # workers a core of this machine: more only take memory, even where images arrive slowly
CONNECT_S: Final = 5  # for a connection to a cluster: Ray itself tries for minutes


class Unfinished(LprError):
    """The cluster cannot be reached, or a partition cannot be read or written; those that are there stay."""


@dataclass(frozen=True)
class Options:
    """How to read, as for `Reader`; where, and on how many actors (0: one a CPU), so many images a partition."""

    variant: str | None = None
    reading: dict[str, Any] = field(default_factory=dict)  # parameters of Reader.read_all
    size: int = 256
    workers: int = 0
    address: str | None = None


@dataclass
class Done:
    """Images that were read now, those that were not, plates, and partitions that were there already, with the images
    that were not read in them."""

    images: int = 0
    errors: int = 0
    plates: int = 0
    before: int = 0
    unread_before: int = 0


def run(listing: Listing, output: str, options: Options) -> Done:
    """Read all images whose partitions are not in the folder `output` yet; an fsspec address, as the listing's.

    Raises BadParameter where the folder was made of other images or with other options, and Unfinished.
    """
    out = Place.at(output)
    _check_workers(options)
    count = -(-len(listing.paths) // options.size)
    with reaching(output):
        _claim(out, _job(listing, options))
        waiting = _missing(out, count)
    earlier = sorted(set(range(count)).difference(waiting))
    done = Done(before=len(earlier), unread_before=sum(_unread(out, number) for number in earlier))
    with tqdm(total=len(listing.paths), unit=" images", disable=None) as bar:
        bar.update(len(listing.paths) - sum(len(_part(listing, number, options.size)) for number in waiting))
        for part in _parts(listing, out, waiting, options) if waiting else ():
            done.images += part["images"]
            done.errors += part["errors"]
            done.plates += part["plates"]
            bar.update(part["images"])
    with reaching(output):
        if lost := _missing(out, count):  # written to another file system: a folder of a machine's own
            raise Unfinished(
                f"{len(lost)} of {count} files were written, but are not in {printable(output)}: "
                "name a folder that all machines reach."
            )
        for path in out.system.glob(f"{out.path}/_*.tmp"):  # of actors that were killed
            out.system.rm(path)
    return done


def _check_workers(options: Options) -> None:
    """Raise BadParameter for more workers than this machine can take; a cluster starts what it has the CPUs for."""
    most = MOST * (os.cpu_count() or 1)
    if not options.address and options.workers > most:
        raise BadParameter(f"{options.workers} workers are too many for this machine: at most {most}.")


def _job(listing: Listing, options: Options) -> dict[str, Any]:
    """What decides the rows, for the file JOB. Raises BadParameter for a format or region that is not known."""
    settings = Settings()
    manifest = artifact.find(settings.artifacts, options.variant or settings.variant).reader
    formats, regions = (",".join(options.reading.get(name, ())) or None for name in ("formats", "regions"))
    restrict(manifest.grammar, formats, regions, settings.regions)
    return {
        "images": len(listing.paths),
        "listing": listing.digest,
        "partition": options.size,
        "variant": f"{manifest.variant} {manifest.version}",
        "finder": settings.finder,
        "limits": [settings.max_bytes, settings.max_pixels],
        "regions": list(settings.regions),
        "reading": json.loads(json.dumps(options.reading)),
    }


def _claim(out: Place, job: dict[str, Any]) -> None:
    """Write the file JOB, or raise BadParameter where there is one of another job.

    One that holds no job is written again while there are no parts: its writer may have had no room.
    """
    names = _names(out)
    before = _job_of(out) if JOB in names else None
    if before is None:
        if JOB in names and len(names) > 1:
            raise BadParameter(
                f"{out.path}/{JOB} is damaged: it does not tell what the files beside it were made of. "
                "Name another folder, or delete this one."
            )
        if names - {JOB}:
            raise BadParameter(f"{out.path} holds something else: name a folder that is empty or not there.")
        out.system.makedirs(out.path, exist_ok=True)
        with _new(out, JOB) as file:
            file.write(json.dumps(job, indent=1).encode())
        return
    if changed := [name for name, value in job.items() if before.get(name) != value]:
        raise BadParameter(
            f"{out.path} was made with other {', '.join(changed)}: name another folder, or delete this one."
        )


def _job_of(out: Place) -> dict[str, Any] | None:
    """What the file JOB holds; None if that is no job."""
    try:
        job = json.loads(out.system.cat_file(f"{out.path}/{JOB}"))
    except ValueError:
        return None
    return job if isinstance(job, dict) else None


def _names(out: Place) -> set[str]:
    """Names of the files that are whole in the folder."""
    out.system.invalidate_cache(out.path)  # what actors wrote is not in it
    try:
        paths = out.system.ls(out.path, detail=False)
    except FileNotFoundError:  # a bucket has no empty folders
        return set()
    names = {path.rsplit("/", 1)[-1] for path in paths}
    return {name for name in names if not (name.startswith("_") and name.endswith(".tmp"))}


def _missing(out: Place, count: int) -> list[int]:
    """Numbers of the partitions that are not in the folder."""
    names = _names(out)
    return [number for number in range(count) if _name(number) not in names]


@contextmanager
def _new(out: Place, name: str) -> Iterator[Any]:
    """A file to write, which gets its name when it is whole."""
    part = f"{out.path}/_{uuid.uuid4().hex}.tmp"
    with out.system.open(part, "wb") as file:
        yield file
    out.system.mv(part, f"{out.path}/{name}")


def _unread(out: Place, number: int) -> int:
    """How many images of a partition that is there were not read."""
    path = f"{out.path}/{_name(number)}"
    with reaching(path), out.system.open(path, "rb") as file:
        errors = pq.read_table(file, columns=["error"])["error"]
    return len(errors) - int(errors.null_count)


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _part(listing: Listing, number: int, size: int) -> tuple[str, ...]:
    return listing.paths[number * size : (number + 1) * size]


def _parts(listing: Listing, out: Place, numbers: list[int], options: Options) -> Iterator[dict[str, Any]]:
    """Have the partitions read and written; a dict of counts for each as soon as it is there."""
    _check_cluster(options.address)
    try:
        _start(options)
        workers = options.workers or int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.raise_original_map_exception = False, True
        parts = [{"number": number, "paths": list(_part(listing, number, options.size))} for number in numbers]
        data = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            Worker,
            fn_constructor_args=(listing.place, out, options),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(parts))),
            num_cpus=1,
        )
        yield from data.iter_rows()
    except Exception as error:  # Ray's have no class in common, and it raises plain ones too
        raise Unfinished(f"{_reason(error)} The same command goes on with what is missing.") from error
    finally:
        ray.shutdown()


def _reason(error: Exception) -> str:
    """What went wrong in an actor, else what Ray says of it."""
    below = getattr(error, "cause", None) or error
    return f"{type(below).__name__}: {str(below).strip()}"


def _check_cluster(address: str | None) -> None:
    """Raise Unfinished where nothing listens at HOST:PORT; other addresses are for Ray alone to know."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:  # no name, and no port, that there can be
        raise Unfinished(
            f"There is no cluster at {address}: {_reason(error)}. The same command goes on with what is missing."
        ) from error


def _start(options: Options) -> None:
    """Connect to the cluster, or start one here. Actors elsewhere get the settings of reading."""
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if options.address:
        names = [f"LPR_{name}" for name in SETTINGS]
        given = {name: os.environ[name] for name in names if name in os.environ}
        ray.init(options.address, runtime_env={"env_vars": given}, **common)
    else:
        cpus = options.workers or os.cpu_count()
        ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=MEMORY, **common)


class Worker:
    """An actor: an engine that reads partitions and writes them."""

    def __init__(self, place: Place, out: Place, options: Options) -> None:
        """Nothing is loaded before the first partition: Ray makes one of these to look at it."""
        self.place, self.out, self.options = place, out, options

    @cached_property
    def reader(self) -> Reader:
        """The engine, of one thread."""
        return Reader(self.options.variant)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Read the partition and write it; counts of it."""
        paths = [str(path) for path in batch["paths"][0]]
        results = self.reader.read_all([partial(self._content, path) for path in paths], **self.options.reading)
        table: list[dict[str, Any]] = []
        for path, result in zip(paths, results, strict=True):
            table += rows(self.place.name(path), result)
        self._write(_name(int(batch["number"][0])), table)
        errors = sum(row["error"] is not None for row in table)
        plates = sum("text" in row for row in table)
        return {"images": [len(paths)], "errors": [errors], "plates": [plates]}

    def _content(self, path: str) -> bytes:
        limit = Settings().max_bytes
        name = self.place.name(path)
        with reaching(name), self.place.system.open(path, "rb") as file:  # its size need not be known
            content = bytes(file.read(limit + 1))
        if len(content) > limit:
            raise BodyTooLarge(f"The file has more bytes than LPR_MAX_BYTES allows: {limit:,}.")
        return content

    def _write(self, name: str, table: list[dict[str, Any]]) -> None:
        with _new(self.out, name) as file:
            pq.write_table(pa.Table.from_pylist(table, schema()), file)
