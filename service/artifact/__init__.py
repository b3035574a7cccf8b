"""The contract between builder and server: a folder with a model, a probe and a manifest that describes both."""

from service.artifact.grammar import Format, Grammar
from service.artifact.manifest import (
    FORMAT_VERSION,
    PROBE,
    BackendName,
    Description,
    FindManifest,
    Finds,
    Latency,
    Library,
    Manifest,
    Measured,
    Probe,
    ReadManifest,
    Reads,
    Score,
    Tensor,
)
from service.artifact.probe import check_probe, library_here, probe_here, read_probe, write_probe
from service.artifact.provenance import Network, Origin, Provenance, Source
from service.artifact.store import MANIFEST, Artifact, find, read, read_manifest, stamp, variants, write
from service.artifact.types import Frozen, Label

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "PROBE",
    "Artifact",
    "BackendName",
    "Description",
    "FindManifest",
    "Finds",
    "Format",
    "Frozen",
    "Grammar",
    "Label",
    "Latency",
    "Library",
    "Manifest",
    "Measured",
    "Network",
    "Origin",
    "Probe",
    "Provenance",
    "ReadManifest",
    "Reads",
    "Score",
    "Source",
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
