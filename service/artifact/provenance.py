"""Provenance of a model: what it was made of, how, and with which versions. Enough to make it again."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AwareDatetime, Field

from service.artifact.types import Count, FileName, Frozen, Label, Positive

if TYPE_CHECKING:  # manifests hold provenances
    from service.artifact.manifest import Model

# Options of the builder's command, by name. No field each: an option may come or go without another format.
Settings = dict[Label, bool | int | float | str]


class Source(Frozen):
    """The artifact that a model was made of. Its version ends with the digest of its weights."""

    variant: FileName
    version: Label

    @classmethod
    def of(cls, model: "Model") -> Self:
        """The one that a manifest describes."""
        return cls(variant=model.variant, version=model.version)

    @property
    def weights(self) -> str:
        """The digest of its weights; what is before it in the version is the package's own version."""
        return self.version.rpartition("+")[2]


class Network(Frozen):
    """Arguments that build the torch network again.

    `widths` are the channels that each convolution puts out. `context_channels` belong to the reader: the channels that
    the context of each stage was trained with, before any was pruned.
    """

    widths: dict[Label, Positive | tuple[Positive, ...]]
    context_channels: tuple[Positive, ...] = ()


class OwnCrops(Frozen):
    """How many crops of the user's own a model was fine-tuned on, and how many were held out."""

    trained: Positive
    held_out: Positive


class Trained(Frozen):
    """Trained from rendered plates, or fine-tuned."""

    by: Literal["train"] = "train"
    settings: Settings
    own_crops: OwnCrops | None = None


class Size(Frozen):
    """What is left of a network, as shares of the one that it was cut from."""

    multiply_adds: float
    parameters: float


class Cut(Frozen):
    """One step of pruning: a convolution, the channels it has then, the network's size and its loss."""

    unit: Label
    channels: Positive
    size: Size
    loss: float


class Pruned(Frozen):
    """The source with fewer channels."""

    by: Literal["prune"] = "prune"
    settings: Settings
    cuts: tuple[Cut, ...]


class Fidelity(Frozen):
    """`exact` of `total` plates read without an error; mean divergence (KL, nats a frame) from the float network."""

    exact: Count
    total: Positive
    divergence: float


class Choice(Frozen):
    """What was measured on the development set before any training, and what follows from it."""

    float32: Fidelity
    methods: dict[Label, Fidelity]  # each way to choose ranges, all layers but the given ones in integers
    method: Label  # the one of least divergence: exact matches differ by a plate or two by chance
    ranges: dict[Label, float]  # largest real value of each layer's output
    alone_integer: dict[Label, Fidelity]
    alone_float: dict[Label, Fidelity]
    floats: tuple[Label, ...]  # layers that stay in float
    calibrated: Fidelity


class Quantized(Frozen):
    """The source in integers. `trained` is None where calibration alone was enough."""

    by: Literal["quantize"] = "quantize"
    settings: Settings
    choice: Choice
    trained: Fidelity | None = None


class Calibrated(Frozen):
    """The source in integers, without a choice of layers: all but the sums of the last one. `ranges` are the largest
    real values of each layer's output on rendered images."""

    by: Literal["calibrate"] = "calibrate"
    settings: Settings
    ranges: dict[Label, float]


class Compiled(Frozen):
    """The source as machine code: which passes ran, and the CPUs that the kernels of each level were tuned on."""

    by: Literal["compile"] = "compile"
    passes: dict[Label, bool]
    tuned_on: dict[Label, tuple[Label, ...]]


Technique = Annotated[Trained | Pruned | Quantized | Calibrated | Compiled, Field(discriminator="by")]


class Origin(Frozen):
    """What a model's maker says of it, wherever and whenever it is published."""

    seed: int
    source: Source | None = None
    network: Network | None = None
    made: Technique | None = None
    note: str | None = None  # what the other fields do not tell


class Provenance(Origin):
    """Where a model came from, and when and with what it was published."""

    commit: str
    created: AwareDatetime
    libraries: dict[str, str]
