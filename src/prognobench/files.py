"""Files written whole or not at all: text, JSON, tables that are safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prognobench.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Table: TypeAlias = pd.DataFrame | Mapping[Any, NDArray[Any]]

TEXT_COLUMNS = ("patient_id", "image", "source", "centre", "part", "item", "reason")
"""Columns that are text whatever they look like (a patient called ``007`` or ``NA``)."""

LONG = 1000
"""From this many rows on, formatting each different value once is faster."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, keys in their order."""
    write_text(path, json.dumps(value, indent=2, default=_plain, allow_nan=False) + "\n")


def json_form(value: Any) -> Any:
    """Return a value as JSON would give it back: paths as text, arrays and tuples as lists."""
    return json.loads(json.dumps(value, default=_plain))


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote; a damaged file is a :class:`StoreError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def write_table(path: Path, table: Table) -> None:
    """Write a CSV that is safe to open in a spreadsheet; nine significant digits."""
    buffer = io.StringIO()
    # The csv module is several times as fast as pandas, which calls float_format per cell.
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*(_texts(table[column]) for column in table), strict=True))
    write_text(path, buffer.getvalue())


def _texts(values: Any) -> Any:
    """Each cell as it is written; in a long table each different value is formatted once."""
    import numpy as np
    import pandas as pd

    if len(values) < LONG:
        empty = pd.isna(values).tolist()
        return ["" if none else _text(v) for v, none in zip(values.tolist(), empty, strict=True)]
    codes, different = pd.factorize(values)
    return np.array([*map(_text, different), ""], dtype=object)[codes]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else str(value)


def read_table(path: Path, text: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; the columns in ``text`` stay text."""
    try:
        return _parse(path.read_bytes(), text)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def read_tables(paths: Sequence[Path], text: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Read many tables of the same columns as one, much faster than one by one.

    The column ``file`` says which of the paths a row came from, as an index.
    """
    contents: list[bytes] = []
    for path in paths:
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if contents[-1].partition(b"\n")[0] != contents[0].partition(b"\n")[0]:
            raise StoreError(f"{path}: its columns differ from those of {paths[0]}")
    bodies = [content.partition(b"\n")[2].rstrip(b"\n") for content in contents]
    rows = [body.count(b"\n") + bool(body) for body in bodies]
    together = b"\n".join([contents[0].partition(b"\n")[0], *filter(None, bodies)])
    try:
        table = _parse(together, text)
    except ValueError:
        table = None
    if table is None or len(table) != sum(rows):
        # Either a file is damaged, which reading one by one names, or cells have line breaks.
        import pandas as pd

        tables = [read_table(path, text) for path in paths]
        rows, table = [len(each) for each in tables], pd.concat(tables, ignore_index=True)
    table["file"] = [number for number, count in enumerate(rows) for _ in range(count)]
    return table


def _parse(content: bytes, text: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    table = pd.read_csv(
        io.BytesIO(content),
        dtype=dict.fromkeys(text, str),
        keep_default_na=False,
        na_values=[""],
    )
    for column in table.columns:
        if table[column].dtype == "str" or table[column].dtype == object:
            values = table[column]
            guarded = values.str.startswith("'", na=False)
            if guarded.any():
                table[column] = values.where(~guarded, values.str[1:])
            if column in text:
                table[column] = table[column].fillna("")
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
