"""Manifest of an artifact: everything that a builder says about a model, as typed data."""

from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from service.artifact.grammar import Frozen, Grammar, Label

FORMAT_VERSION: Final = 1
PROBE: Final = "probe.npz"
INPUT_PIXELS: Final = 1 << 20  # most of an image as the network takes it

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Positive = Annotated[int, Field(gt=0, lt=1 << 63)]
Milliseconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
BackendName = Literal["torch", "onnxruntime", "tvm"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Tensor(Frozen):
    """One end of the model; `shape` mixes numbers with names of free dimensions, such as "N"."""

    dtype: Literal["uint8", "float32"]
    shape: tuple[Annotated[int, Field(gt=0, le=1 << 16)] | Label, ...]
    description: str


class Probe(Frozen):
    """Inputs with their expected logits, and the largest absolute difference that counts as equal."""

    file: FileName = PROBE
    tolerance: Annotated[float, Field(gt=0, le=1)]  # beyond it, a probe would prove nothing


class Provenance(Frozen):
    """Where the model came from: enough to build it again."""

    commit: str
    created: AwareDatetime
    seed: int
    arguments: dict[str, JsonValue]
    libraries: dict[str, str]


class Score(Frozen):
    """`exact` of `total` plates read without an error; `low` and `high` bound the share (95 %, Wilson)."""

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


class Description(Frozen):
    """All that a builder has to say about an artifact: the manifest without the hashes, which `write` adds."""

    format_version: Literal[1] = FORMAT_VERSION
    variant: FileName
    version: Label
    backend: BackendName
    input: Tensor
    output: Tensor
    alphabet: Annotated[str, Field(min_length=1)]
    blank: Count
    grammar: Grammar
    max_batch: Annotated[int, Field(gt=0, le=1 << 16)]
    probe: Probe
    provenance: Provenance
    libraries: tuple[Library, ...] = ()  # compiled code, the fastest first
    measured: Measured | None = None

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

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The artifact's probe, and those of libraries that have their own."""
        return self.probe, *(library.probe for library in self.libraries if library.probe)

    def library(self, flags: frozenset[str]) -> Library | None:
        """The first, and so fastest, library that a CPU with `flags` can run; None where it can run none."""
        return next((library for library in self.libraries if flags.issuperset(library.needs)), None)


class Manifest(Description):
    """The content of manifest.json."""

    files: dict[FileName, Sha256]
