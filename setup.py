"""Adds the default variant's artifact to the package while it is built; pyproject.toml says everything else."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

VARIANT = runpy.run_path("service/bundled.py")["VARIANT"]
SOURCE = Path("artifacts") / VARIANT


class BuildWithModel(build_py):
    """Copies artifacts/VARIANT to service/models/VARIANT of what is built; an editable install reads artifacts/."""

    def run(self) -> None:
        """Build, and copy."""
        super().run()
        if not self.editable_mode:
            self.copy_tree(str(SOURCE), str(Path(self.build_lib, "service", "models", VARIANT)))

    def get_source_files(self) -> list[str]:
        """What a source distribution needs for that, besides the modules."""
        return [*super().get_source_files(), *map(str, SOURCE.iterdir())]


setup(cmdclass={"build_py": BuildWithModel})
