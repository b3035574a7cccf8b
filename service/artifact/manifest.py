"""Manifest of an artifact: everything that a builder says about a model, as typed data.

A manifest has one `task`: `read` (a crop of one plate to a text), `find` (a photograph to the plates in it) or `refine`
(the crop around a found plate to its exact corners). `Model` holds what all have. A further task is a class beside
`Reads`, `Finds` and `Refines`, and a member of the union `Manifest`.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from service.artifact.grammar import Grammar
from service.artifact.provenance import Provenance
from service.artifact.types import Count, FileName, Frozen, Label, Milliseconds, Positive, Sha256, Share

FORMAT_VERSION: Final = 2
PROBE: Final = "probe.npz"
INPUT_PIXELS: Final = 1 << 20  # most of an image as a network takes it

BackendName = Literal["torch", "onnxruntime", "tvm"]


class Tensor(Frozen):
    """One end of the model; `shape` mixes numbers with names of free dimensions, such as "N"."""

    dtype: Literal["uint8", "float32"]
    shape: tuple[Annotated[int, Field(gt=0, le=1 << 16)] | Label, ...]
    description: str


class Probe(Frozen):
    """Images with their expected outputs, and the largest absolute difference that counts as equal."""

    file: FileName = PROBE
    tolerance: Annotated[float, Field(gt=0, le=1)]  # beyond it, a probe would prove nothing


class Score(Frozen):
    """`exact` of `total` plates read (found, told from other things) without an error; `low` and `high` bound the share
    (95 %, Wilson)."""

    exact: Count
    total: Positive
    low: Share
    high: Share


class Latency(Frozen):
    """Milliseconds of one `infer` call on `batch` plates."""

    median: Milliseconds
    p95: Milliseconds
    threads: Positive
    batch: Positive
    repeats: Positive


class Measured(Frozen):
    """What `model_builder evaluate` measured through the serving code on the named machine."""

    accuracy: dict[str, Score]
    corner_error: Annotated[float, Field(ge=0)] | None = None  # median of the largest one of a plate, in its widths
    false_alarms: Annotated[float, Field(ge=0)] | None = None  # a rendered scene
    latency_ms: Latency
    size_bytes: Positive
    parameters: Positive
    multiply_adds: Positive
    machine: Label


class Library(Frozen):
    """One compiled file: it runs on a CPU that has every one of `needs`, named as in /proc/cpuinfo.

    `probe` is its own where it computes something else than the artifact's probe tells: floats in place of integers.
    """

    file: FileName
    level: Label
    needs: tuple[str, ...]
    probe: Probe | None = None


class Model(Frozen):
    """What is said of a model of any task, without the hashes of its files, which `write` adds."""

    format_version: Literal[2] = FORMAT_VERSION
    task: Literal["read", "find", "refine"]
    variant: FileName
    version: Label
    backend: BackendName
    input: Tensor
    output: Tensor
    max_batch: Annotated[int, Field(gt=0, le=1 << 16)]
    probe: Probe
    provenance: Provenance
    libraries: tuple[Library, ...] = ()  # compiled code, the fastest first
    measured: Measured | None = None

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The artifact's probe, and those of libraries that have their own."""
        return self.probe, *(library.probe for library in self.libraries if library.probe)

    @property
    def images(self) -> tuple[tuple[int | str, ...], ...]:
        """Shapes of the images that the model takes. A probe holds some of each, in this order."""
        return (self.input.shape[1:],)

    def library(self, flags: frozenset[str]) -> Library | None:
        """The first, and so fastest, library that a CPU with `flags` can run; None where it can run none."""
        return next((library for library in self.libraries if flags.issuperset(library.needs)), None)


class Reads(Model):
    """A model that reads: crops uint8 (N, height, width, 3) to CTC logits float32 (N, frames, classes).

    A crop shows one plate. The classes are the characters of `alphabet` in their order, with the blank at `blank`.
    """

    task: Literal["read"] = "read"
    alphabet: Annotated[str, Field(min_length=1)]
    blank: Count
    grammar: Grammar
    temperature: Annotated[float, Field(ge=0.1, le=10)] = 1.0  # logits are divided by it: fitted on rendered plates

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError("alphabet holds a character twice")
        if self.blank > len(self.alphabet):
            raise ValueError(f"blank is {self.blank}, but there are only {len(self.alphabet) + 1} classes")
        for format in self.grammar.formats:
            if strange := set("".join("".join(t) for t in format.templates)) - set(self.alphabet):
                raise ValueError(f"format {format.name} uses {''.join(sorted(strange))}, not in the alphabet")
        match self.input:
            case Tensor(dtype="uint8", shape=(str(), int(height), int(width), 3)) if height * width <= INPUT_PIXELS:
                pass
            case _:
                raise ValueError(f"input must be uint8 (N, height, width, 3) of at most {INPUT_PIXELS} pixels")
        match self.output:
            case Tensor(dtype="float32", shape=(str(), int(), int(classes))) if classes == len(self.alphabet) + 1:
                pass
            case _:
                raise ValueError(f"output must be float32 (N, frames, {len(self.alphabet) + 1})")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the crops that the network takes."""
        _, height, width, _ = self.input.shape
        return int(height), int(width)


class Finds(Model):
    """A model that finds plates: images uint8 (N, H, W, 3) to maps float32 (N, H/stride, W/stride, channels).

    H and W are one of `sizes`. `refiner` names the variant of task `refine` that belongs to it.
    """

    task: Literal["find"] = "find"
    sizes: Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1)]
    stride: Positive  # pixels of the image a cell of the maps
    refiner: FileName

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        match self.input, self.output:
            case Tensor(dtype="uint8", shape=(str(), str(), str(), 3)), Tensor(dtype="float32", shape=(_, _, _, int())):
                pass
            case _:
                raise ValueError("input must be uint8 (N, H, W, 3), output float32 (N, rows, columns, channels)")
        for height, width in self.sizes:
            if height % self.stride or width % self.stride or height * width > INPUT_PIXELS:
                raise ValueError(f"size {height} x {width} must be whole cells, and at most {INPUT_PIXELS} pixels")
        return self

    @property
    def images(self) -> tuple[tuple[int | str, ...], ...]:
        """Shapes of the images that the model takes, one a size."""
        return tuple((height, width, 3) for height, width in self.sizes)


class Refines(Model):
    """A model that refines found plates: crops uint8 (N, height, width, 3) to maps float32 (N, height / 4, width / 4,
    channels).

    `service.finding.refine` tells what the channels are; the last ones are of `colours`.
    """

    task: Literal["refine"] = "refine"
    around: tuple[float, float]  # width and height of the crop, in those of the found plate
    colours: Annotated[tuple[Label, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        match self.input, self.output:
            case (
                Tensor(dtype="uint8", shape=(str(), int(height), int(width), 3)),
                Tensor(dtype="float32", shape=(str(), int(rows), int(columns), int())),
            ) if (rows * 4, columns * 4) == (height, width):
                return self
        raise ValueError("input must be uint8 (N, H, W, 3), output float32 (N, H / 4, W / 4, channels)")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the crops that the network takes."""
        _, height, width, _ = self.input.shape
        return int(height), int(width)


class _Listed(Frozen):
    files: dict[FileName, Sha256]


class ReadManifest(_Listed, Reads):
    """The content of manifest.json of a model that reads."""


class FindManifest(_Listed, Finds):
    """The content of manifest.json of a model that finds."""


class RefineManifest(_Listed, Refines):
    """The content of manifest.json of a model that refines."""


Description = Reads | Finds | Refines
Manifest = ReadManifest | FindManifest | RefineManifest
