"""Adds the default variants' artifacts to the package while it is built; pyproject.toml says everything else."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCES = [Path("artifacts") / name for name in runpy.run_path("service/bundled.py")["VARIANTS"]]


class BuildWithModel(build_py):
    """Copies the artifacts to service/models of what is built; an editable install reads artifacts/."""

    def run(self) -> None:
        """Build, and copy."""
        super().run()
        if not self.editable_mode:
            for source in SOURCES:
                self.copy_tree(str(source), str(Path(self.build_lib, "service", "models", source.name)))

    def get_source_files(self) -> list[str]:
        """What a source distribution needs for that, besides the modules."""
        return [*super().get_source_files(), *(str(file) for source in SOURCES for file in source.iterdir())]


setup(cmdclass={"build_py": BuildWithModel})
