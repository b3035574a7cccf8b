"""Grammar of plates as data: the families of texts that a model knows, as a manifest holds them."""

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]  # stands in answers, logs and metrics


class Frozen(BaseModel):
    """Immutable, and an unknown key is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
