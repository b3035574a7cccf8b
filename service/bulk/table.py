"""Rows of the Parquet files: those of `lpr read --json`, one a plate, with columns of a type each."""

import os
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel

from service.reader import ImageResult
from service.wire import Plate

_PLAIN = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}


@cache
def schema() -> pa.Schema:
    """`file`, the number of the `plate` in it, all fields of a plate as the server answers, and what the file lacks."""
    before = [("file", pa.string()), ("plate", pa.int64())]
    after = [("truncated", pa.bool_()), ("note", pa.string()), ("error", pa.string())]
    return pa.schema([*before, *_fields(Plate), *after])


def rows(file: str, result: ImageResult) -> Iterator[dict[str, Any]]:
    """One row a plate; one without a plate, with a note or the error, where there is none.

    Of a file name that is not UTF-8, as in old archives, the other bytes are written as \\xNN.
    """
    error = None if result.error is None else str(result.error)
    name = os.fsencode(file).decode("utf-8", "backslashreplace")
    whole = {"file": name, "truncated": result.truncated, "note": result.note, "error": error}
    for number, plate in enumerate(result.plates, 1):
        yield whole | {"plate": number} | plate.model_dump()
    if not result.plates:
        yield whole


def _fields(model: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(name, _type(field.annotation)) for name, field in model.model_fields.items()]


def _type(kind: Any) -> Any:
    """The type of Arrow for a type of a field."""
    whole = get_origin(kind)
    within = [_type(one) for one in get_args(kind)[:1]]
    if whole in (Annotated, Union, types.UnionType):  # the other type of a union is that of None
        return within[0]
    if whole in (list, tuple):
        return pa.list_(within[0])
    return pa.struct(_fields(kind)) if issubclass(kind, BaseModel) else _PLAIN[kind]
