"""The contract between builder and server: a folder with a model, a probe and a manifest that describes both."""

from service.artifact.grammar import Format, Frozen, Grammar, Label
from service.artifact.manifest import (
    FORMAT_VERSION,
    PROBE,
    BackendName,
    Description,
    Latency,
    Library,
    Manifest,
    Measured,
    Probe,
    Provenance,
    Score,
    Tensor,
)
from service.artifact.probe import check_probe, library_here, probe_here, read_probe, write_probe
from service.artifact.store import MANIFEST, Artifact, find, read, read_manifest, stamp, variants, write

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "PROBE",
    "Artifact",
    "BackendName",
    "Description",
    "Format",
    "Frozen",
    "Grammar",
    "Label",
    "Latency",
    "Library",
    "Manifest",
    "Measured",
    "Probe",
    "Provenance",
    "Score",
    "Tensor",
    "check_probe",
    "find",
    "library_here",
    "probe_here",
    "read",
    "read_manifest",
    "read_probe",
    "stamp",
    "variants",
    "write",
    "write_probe",
]
