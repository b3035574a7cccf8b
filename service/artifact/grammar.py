"""Grammar of plates as data: the families of texts that a model knows, as a manifest holds them."""

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from service.artifact.types import Frozen, Label


class Format(Frozen):
    """A family of texts, named after what the text alone tells. A template holds, for each position, the characters
    allowed there."""

    name: Label
    templates: Annotated[tuple[tuple[Annotated[str, Field(min_length=1)], ...], ...], Field(min_length=1)]

    def fits(self, text: str) -> bool:
        """Whether `text` matches one of the templates, position by position."""
        return any(
            len(text) == len(template) and all(char in allowed for char, allowed in zip(text, template, strict=True))
            for template in self.templates
        )


class Grammar(Frozen):
    """The families of texts that a model knows. A text may fit several."""

    formats: tuple[Format, ...]

    def formats_of(self, text: str) -> tuple[str, ...]:
        """Names of the formats that `text` fits, in their order."""
        return tuple([format.name for format in self.formats if format.fits(text)])

    def only(self, names: Collection[str]) -> "Grammar":
        """The grammar of the formats of these names alone; those that it does not know are left out."""
        return Grammar(formats=tuple(format for format in self.formats if format.name in names))
