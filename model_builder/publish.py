"""The sole writer of artifacts/: written aside, checked through the serving code, measured, then renamed."""

import datetime
import hashlib
import importlib.metadata
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim

from model_builder import evaluate
from model_builder.data import Crops, validation_set
from model_builder.model import HEIGHT, WIDTH, LPRNet, Widths, multiply_adds
from model_builder.plates import ALPHABET, GRAMMAR
from service import artifact as contract
from service.artifact import Artifact, Description, Measured, Probe, Provenance, Tensor
from service.backends import load
from service.backends.torch import MODEL
from service.errors import ArtifactError

MAX_BATCH = 64
_PROBE_PLATES = 8
_TOLERANCE = 1e-3  # of a logit: engines add in other orders, and the probe's lie between -33 and 46


def publish_network(
    root: Path,
    variant: str,
    network: LPRNet,
    *,
    seed: int,
    arguments: dict[str, object],
    sets: dict[str, Crops],
) -> Artifact:
    """Export `network` and publish it as `root`/`variant` once it has proved equal through the serving code.

    Raises ArtifactError, and leaves an older artifact as it was, when the exported program's logits differ from the
    network's by more than the tolerance.
    """
    network = network.cpu().eval()
    probe = validation_set(_PROBE_PLATES).images
    with torch.inference_mode():
        logits = network(torch.from_numpy(probe)).numpy()
    aside = root / f".{variant}.new"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _export(network, aside / MODEL)
        contract.write_probe(aside, probe, logits)
        description = Description(
            variant=variant,
            version=f"{importlib.metadata.version('lpr')}+{_digest(network)}",
            backend="torch",
            input=Tensor(
                dtype="uint8",
                shape=("N", HEIGHT, WIDTH, 3),
                description="BGR crop of one plate, resized; not normalized",
            ),
            output=Tensor(dtype="float32", shape=("N", *logits.shape[1:]), description="CTC logits, blank last"),
            alphabet=ALPHABET,
            blank=len(ALPHABET),
            grammar=GRAMMAR,
            max_batch=MAX_BATCH,
            probe=Probe(tolerance=_TOLERANCE),
            provenance=_provenance(seed, arguments),
        )
        written = contract.write(aside, description)
        backend = load(written, threads=1)
        contract.check_probe(backend, written)
        measured = Measured(
            accuracy={name: evaluate.accuracy(written, backend, crops) for name, crops in sets.items()},
            latency_ms=evaluate.latency(backend, threads=1),
            size_bytes=sum(path.stat().st_size for path in aside.iterdir()),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            multiply_adds=multiply_adds(network, torch.from_numpy(probe)),
            machine=evaluate.machine(),
        )
        backend.close()
        contract.write(aside, description.model_copy(update={"measured": measured}))
        _replace(aside, root / variant)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return contract.read(root / variant)


def load_network(artifact: Artifact) -> LPRNet:
    """The network of a published torch artifact as a module that can be trained again."""
    arguments = artifact.manifest.provenance.arguments
    configuration = arguments.get("network")
    if not isinstance(configuration, dict):
        raise ArtifactError(f"{artifact.folder} does not tell its network's configuration: give a baseline")
    network = LPRNet(
        len(artifact.manifest.alphabet) + 1,
        Widths.of(configuration["widths"]),
        transformer=bool(configuration["transformer"]),
    )
    network.load_state_dict(torch.export.load(artifact.file(MODEL)).state_dict)
    return network


def _export(network: nn.Module, path: Path) -> None:
    example = torch.from_numpy(_noise(2))
    program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch", min=1, max=MAX_BATCH)},))
    torch.export.save(program, path)


def _noise(count: int) -> NDArray[np.uint8]:
    rng = random.Random(0)
    return np.frombuffer(rng.randbytes(count * HEIGHT * WIDTH * 3), np.uint8).reshape(count, HEIGHT, WIDTH, 3).copy()


def _digest(network: nn.Module) -> str:
    """Eight hexadecimal digits that tell one set of weights from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _provenance(seed: int, arguments: dict[str, object]) -> Provenance:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "opencv-python-headless")}
    return Provenance.model_validate(
        {
            "commit": commit or "unknown",
            "created": datetime.datetime.now(datetime.UTC).replace(microsecond=0),
            "seed": seed,
            "arguments": arguments,
            "libraries": libraries,
        }
    )


def _replace(new: Path, target: Path) -> None:
    """Put `new` where `target` is; a reader sees the old folder or the new one, never a mixture."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
