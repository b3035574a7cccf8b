"""Candidates for publishing: a model with all that a manifest has to say of it; networks as torch programs, as ONNX."""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim, ExportedProgram

from model_builder.graph import description, onnx, reference
from model_builder.graph.description import Graph
from model_builder.graph.trace import trace
from model_builder.networks.finder import Finder
from model_builder.networks.reader import HEIGHT, SIZE, WIDTH, LPRNet
from model_builder.networks.refiner import Refiner
from model_builder.plates.kinds import ALPHABET
from model_builder.tasks import READING, Task
from service.artifact import Artifact, BackendName, Library, Network, Origin
from service.backends import onnxruntime
from service.backends.torch import MODEL
from service.errors import ArtifactError

MAX_BATCH = READING.max_batch
TOLERANCE = 1e-3  # of a logit: engines add in other orders, and the probe's lie between -33 and 46
# With some layers in float, whose sums have another order, a tie may be rounded to the neighbouring integer.
MIXED_TOLERANCE = 0.5

_LIKE = {"I": "1"}  # what a character looks like that older networks don't know
_LESS = 2.0  # of a logit

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Candidate:
    """A model that wants to be published as `variant`.

    `write` puts the model files of `backend` into a folder; `logits` computes, by what the model was made from, the
    float32 outputs (n, ...) that it has to reproduce within `tolerance` for images uint8 (n, H, W, 3). `others`
    compute, by the probe's file, those that a library with a probe of its own has to reproduce instead.
    """

    variant: str
    task: Task
    backend: BackendName
    write: Callable[[Path], None]
    logits: Logits
    tolerance: float
    digest: str
    max_batch: int
    parameters: int
    multiply_adds: int
    origin: Origin
    libraries: tuple[Library, ...] = ()
    others: Mapping[str, Logits] = field(default_factory=dict)


def torch_candidate(variant: str, network: LPRNet, origin: Origin, task: Task = READING) -> Candidate:
    """`network` as a `torch.export` program; its configuration joins `origin`."""
    # Built anew, for the file is to depend on the weights alone, not on what training left: strides, dropout, a device.
    trained, network = network, LPRNet.configured(network.classify.out_channels, network.configuration())
    network.load_state_dict(trained.state_dict())
    network.eval()

    return Candidate(
        variant=variant,
        task=task,
        backend="torch",
        write=lambda folder: torch.export.save(exported(network), folder / MODEL),
        logits=partial(torch_logits, network),
        tolerance=TOLERANCE,
        digest=digest({name: tensor.numpy() for name, tensor in network.state_dict().items()}),
        max_batch=MAX_BATCH,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=sum(trace(network, SIZE).multiply_adds().values()),
        origin=origin.model_copy(update={"network": Network.model_validate(network.configuration())}),
    )


def onnx_candidate(variant: str, network: Graph, origin: Origin, task: Task = READING) -> Candidate:
    """The network as ONNX. It is published if ONNX Runtime computes what `graph/reference.py` computes.

    ONNX Runtime's integers equal those of the reference bit by bit. Contexts and the output are float sums in another
    order.
    """
    arrays = description.arrays(network)
    integers = {node.weights.integer for node in network.convolutions}
    return Candidate(
        variant=variant,
        task=task,
        backend="onnxruntime",
        write=lambda folder: onnx.write(network, folder / onnxruntime.MODEL, any_size=task.any_size),
        logits=partial(reference.run, network),
        tolerance=MIXED_TOLERANCE if len(integers) > 1 else TOLERANCE,
        digest=digest(arrays),
        max_batch=task.max_batch,
        parameters=sum(array.size for name, array in arrays.items() if not name.endswith("scales")),
        multiply_adds=sum(network.multiply_adds().values()),
        origin=origin,
    )


def traced_candidate(
    variant: str, network: Finder | Refiner, size: tuple[int, int], origin: Origin, task: Task
) -> Candidate:
    """`network` as ONNX in float32, traced for images of `size` (height, width); its configuration joins `origin`."""
    configured = origin.model_copy(update={"network": Network.model_validate(network.configuration())})
    return onnx_candidate(variant, trace(network.eval(), (*size, 3)), configured, task)


def torch_logits(network: nn.Module, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits float32 (n, T, C) of crops uint8 (n, H, W, 3), by torch."""
    with torch.inference_mode():
        computed: NDArray[np.float32] = network(torch.from_numpy(crops)).numpy()
    return computed


def load_network(artifact: Artifact) -> LPRNet:
    """The network of a published torch artifact as a module that can be trained again, with all of today's alphabet."""
    return widened(published_network(artifact), artifact.reader.alphabet)


def published_network(artifact: Artifact) -> LPRNet:
    """The network of a published torch artifact as it is, with the classes of its manifest: what is to be measured."""
    configuration = artifact.manifest.provenance.network
    if artifact.manifest.backend != "torch" or configuration is None:
        raise ArtifactError(
            f"{artifact.folder} holds no network that can be trained or quantized: give the torch variant that it was "
            "made of"
        )
    network = LPRNet.configured(len(artifact.reader.alphabet) + 1, configuration.model_dump())
    network.load_state_dict(torch.export.load(artifact.file(MODEL)).state_dict)
    return network


def widened(network: LPRNet, known: str) -> LPRNet:
    """The network with a class for each character of today's alphabet; `known` are those that it has.

    A new one begins as the character that it looks like, less probable.
    """
    if known == ALPHABET:
        return network
    wide = LPRNet.configured(len(ALPHABET) + 1, network.configuration())
    before, weights = network.state_dict(), wide.state_dict()
    places = [
        known.find(_LIKE.get(character, character) if character not in known else character) for character in ALPHABET
    ]
    rows = [place if place >= 0 else len(known) for place in places] + [len(known)]  # the blank is the last class
    weights |= {name: value for name, value in before.items() if not name.startswith("classify.")}
    weights["classify.weight"], weights["classify.bias"] = (
        before["classify.weight"][rows],
        before["classify.bias"][rows],
    )
    new = [index for index, character in enumerate(ALPHABET) if character not in known]
    weights["classify.bias"][new] -= _LESS
    wide.load_state_dict(weights)
    return wide


def exported(network: nn.Module) -> ExportedProgram:
    """The network in evaluation mode as a program that takes up to MAX_BATCH crops."""
    example = torch.from_numpy(_noise(2))
    program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch", min=1, max=MAX_BATCH)},))
    for node in program.graph.nodes:  # the paths of this machine's files, which would make it another file elsewhere
        node.meta.pop("stack_trace", None)
    return program


def _noise(count: int) -> NDArray[np.uint8]:
    rng = random.Random(0)
    return np.frombuffer(rng.randbytes(count * HEIGHT * WIDTH * 3), np.uint8).reshape(count, HEIGHT, WIDTH, 3).copy()


def digest(weights: Mapping[str, NDArray[Any]]) -> str:
    """Eight hexadecimal digits that tell one set of weights from another."""
    hashed = hashlib.sha256()
    for name in sorted(weights):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(weights[name]).tobytes())
    return hashed.hexdigest()[:8]
