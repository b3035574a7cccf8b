"""The tasks of models: for each, how one is probed, described and measured. `publish.py` knows none by its name."""

from model_builder.tasks.base import Examples, Figures, Task
from model_builder.tasks.finding import Finding
from model_builder.tasks.reading import READING, Reading
from model_builder.tasks.refining import REFINING
from service.artifact import FindManifest, Manifest, RefineManifest

__all__ = ["READING", "REFINING", "Examples", "Figures", "Finding", "Reading", "Task", "task_of"]


def task_of(manifest: Manifest) -> Task:
    """The task of a published model."""
    match manifest:
        case FindManifest():
            return Finding(manifest.refiner, manifest.sizes)
        case RefineManifest():
            return REFINING
        case _:
            return Reading(manifest.grammar, manifest.alphabet)
