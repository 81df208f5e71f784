"""Files written whole or not at all: text, JSON, tables safe in a spreadsheet; pseudonyms.

Whoever writes a file gets its checksum, and whoever reads it can ask for that checksum.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prognobench.errors import ConfigError, DamagedError, StoreError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Table: TypeAlias = pd.DataFrame | Mapping[Any, NDArray[Any]]
    Keep: TypeAlias = Callable[[pd.DataFrame], pd.Series[bool]]

TEXT_COLUMNS = ("patient_id", "image", "source", "centre", "part", "item", "reason")
"""Columns that are text whatever they look like (a patient called ``007`` or ``NA``)."""

NAMED = {"patient_id": "patient", "image": "image", "source": "source", "centre": "centre"}
"""Column -> the first word of its pseudonyms."""

BLOCK = 100_000
"""Rows that are written at once: millions as text would not fit into memory."""

LONG = 1000
"""From this many rows on, formatting each different value once is faster."""

SEAL = "checksum"
"""Last entry of a sealed JSON file: the checksum of all others."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
"""What spreadsheets take for the beginning of a formula, and the guard itself."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal acts on and a spreadsheet drops; tabs and line breaks stay."""

_ESCAPED = "'\\"
"""How a cell begins in which control characters, and backslashes, are escapes; no guarded text
begins so."""

_ESCAPE = re.compile(r"\\(\\|u[0-9a-f]{4})")


def checksum(content: bytes) -> str:
    """Return a checksum of content: 32 hexadecimal digits."""
    return hashlib.blake2b(content).hexdigest()[:32]


PIECE = 2**20
"""Bytes that are read at once."""

_checked: dict[str, tuple[tuple[int, ...], str]] = {}
"""File -> its stamp when it was last read here, and its checksum then."""


def stamp_file(path: Path | str) -> tuple[int, ...]:
    """Return what changes whenever a file is written: size, times of change, inode."""
    stat = os.stat(path)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def checksum_file(path: Path | str) -> str | None:
    """Return a file's checksum, or nothing if it cannot be read.

    This process reads a file again only after it has changed.
    """
    place = os.fspath(path)
    digest = hashlib.blake2b()
    try:
        stamp = stamp_file(place)
        if (known := _checked.get(place)) and known[0] == stamp:
            return known[1]
        with open(place, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    except OSError:
        return None
    found = digest.hexdigest()[:32]
    _checked[place] = (stamp, found)
    return found


def write_text(path: Path, text: str) -> str:
    """Write a text file whole or not at all; return its checksum."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file whole or not at all; return its checksum."""
    return write_blocks(path, [content])


def write_blocks(path: Path, blocks: Iterable[bytes]) -> str:
    """Write a file of several pieces, whole or not at all; return its checksum."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    digest = hashlib.blake2b()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:  # the pieces could not be made
        with suppress(OSError):
            draft.unlink()
        raise
    return digest.hexdigest()[:32]


def write_json(path: Path, value: Any) -> str:
    """Write a value as indented JSON, keys in their order; return the file's checksum."""
    text = json.dumps(value, indent=2, default=_plain, allow_nan=False)
    return write_text(path, text + "\n")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, with its own checksum as the last entry."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """Read what :func:`write_sealed` wrote, and say whether a checksum was there.

    Raises
    ------
    StoreError
        If it cannot be read, or has another checksum than its own.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedError(f"{path} is damaged: it holds no entries")
    if SEAL not in value:
        return value, False
    if value.pop(SEAL) != _seal(value):
        raise DamagedError(f"{path} is damaged: its content has another checksum than its own")
    return value, True


def _seal(value: Mapping[str, Any]) -> str:
    return checksum(json.dumps(value, sort_keys=True, default=_plain).encode())


def json_form(value: Any) -> Any:
    """Return a value as JSON would give it back: paths as text, arrays and tuples as lists."""
    return json.loads(json.dumps(value, default=_plain))


def read_json(path: Path, wanted: str | None = None) -> Any:
    """Read what :func:`write_json` wrote; a damaged file is a :class:`StoreError`.

    Parameters
    ----------
    wanted
        The checksum that the file must have, if that is known.
    """
    try:
        return json.loads(_read(path, wanted))
    except RecursionError as error:
        raise _unreadable(path, ValueError("it is nested without end")) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    kind = DamagedError if isinstance(error, ValueError) else StoreError
    return kind(f"{path} cannot be read: {error}")


def _read(path: Path, wanted: str | None) -> bytes:
    content = path.read_bytes()
    if wanted is not None and checksum(content) != wanted:
        raise ValueError("it has another checksum than when it was written")
    return content


def write_table(path: Path, table: Table) -> str:
    """Write a CSV that is safe to open in a spreadsheet; nine significant digits.

    Returns the checksum of the file.
    """
    return write_tables(path, [table])


def write_tables(path: Path, tables: Iterable[Table]) -> str:
    """Write tables of the same columns as one CSV, each as it comes, so that none is kept.

    Returns the checksum of the file.
    """
    return write_blocks(path, _csv_blocks(tables))


def _csv_blocks(tables: Iterable[Table]) -> Iterator[bytes]:
    names: list[Any] | None = None
    for table in tables:
        if names is None:
            names = list(table)
            yield _csv([[guard(name) for name in names]])
        columns = [table[name] for name in names]
        for start in range(0, len(columns[0]) if columns else 0, BLOCK):
            rows = slice(start, start + BLOCK)
            texts = [_texts(column[rows]) for column in columns]
            yield _csv_of_columns(texts)


def _csv(rows: Iterable[Any]) -> bytes:
    # The csv module is several times as fast as pandas, which calls float_format per cell.
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _csv_of_columns(texts: Sequence[Sequence[str]]) -> bytes:
    """Return the rows of columns as CSV; where no cell needs quotes, joining them is enough."""
    if len(texts) > 1:
        plain = "\n".join(map(",".join, zip(*texts, strict=True))) + "\n"
        rows = len(texts[0])
        as_many = plain.count("\n") == rows and plain.count(",") == rows * (len(texts) - 1)
        if as_many and '"' not in plain and "\r" not in plain:
            return plain.encode()
    return _csv(zip(*texts, strict=True))


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
    return str(guard(value))


def guard(value: Any) -> Any:
    """Return text that a spreadsheet shows and does not compute; other values as they are.

    Control characters become escapes. :func:`read_table` gives the text back as it was.
    """
    if not isinstance(value, str):
        return value
    if _CONTROL.search(value):
        return _ESCAPED + _CONTROL.sub(_escape, value.replace("\\", "\\\\"))
    return f"'{value}" if value.startswith(_FORMULA) else value


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _restore(value: Any) -> Any:
    """Return what :func:`guard` was given."""
    if not (isinstance(value, str) and value.startswith("'")):
        return value
    if not value.startswith(_ESCAPED):
        return value[1:]
    return _ESCAPE.sub(
        lambda at: "\\" if at[1] == "\\" else chr(int(at[1][1:], 16)), value[len(_ESCAPED) :]
    )


def read_table(
    path: Path,
    text: Sequence[str] = TEXT_COLUMNS,
    wanted: str | None = None,
    keep: Keep | None = None,
) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; the columns in ``text`` stay text.

    Parameters
    ----------
    wanted
        The checksum that the file must have, if that is known.
    keep
        Says which rows are kept; a large table is then read in pieces.
    """
    try:
        return _parse(_read(path, wanted), text, keep)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_tables(
    paths: Sequence[Path],
    text: Sequence[str] = TEXT_COLUMNS,
    wanted: Sequence[str | None] | None = None,
) -> pd.DataFrame:
    """Read many tables of the same columns as one, much faster than one by one.

    The column ``file`` says which of the paths a row came from, as an index.

    Parameters
    ----------
    wanted
        The checksum that each file must have, where that is known.
    """
    contents: list[bytes] = []
    for path, expected in zip(paths, wanted or [None] * len(paths), strict=True):
        try:
            contents.append(_read(path, expected))
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
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


def _parse(content: bytes, text: Sequence[str], keep: Keep | None = None) -> pd.DataFrame:
    import pandas as pd

    how: dict[str, Any] = {
        "dtype": dict.fromkeys(text, str),
        "keep_default_na": False,
        "na_values": [""],
    }
    if keep is None:
        return _unguard(pd.read_csv(io.BytesIO(content), **how), text)
    with pd.read_csv(io.BytesIO(content), chunksize=BLOCK, **how) as pieces:
        kept = [piece[keep(piece)] for piece in pieces]
    if not kept:
        return _unguard(pd.read_csv(io.BytesIO(content), **how), text)
    return _unguard(pd.concat(kept, ignore_index=True), text)


def _unguard(table: pd.DataFrame, text: Sequence[str]) -> pd.DataFrame:
    """Take away what keeps spreadsheets from computing; a blank of a text column is empty text."""
    table.columns = [_restore(str(name)) for name in table.columns]
    for column in table.columns:
        if table[column].dtype == "str" or table[column].dtype == object:
            values = table[column]
            guarded = values.str.startswith("'", na=False)
            if guarded.any():
                table[column] = values.where(~guarded, values[guarded].map(_restore))
            if column in text:
                table[column] = table[column].fillna("")
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


# ------------------------------------------------------------------ pseudonyms

HIDDEN = "hidden (privacy.ids=pseudonyms)"
"""Stands for a path, or a setting that names patients, where these are not stored."""


@dataclass(frozen=True)
class Pseudonyms:
    """Names that are the same for the same thing, and lead back only with the key."""

    key: bytes

    @classmethod
    def of(cls, file: Path) -> Pseudonyms:
        """Read the key of a file, or make the file, which only its owner can read.

        Raises
        ------
        StoreError
            If the file can be neither read nor made.
        ConfigError
            If it holds something else.
        """
        try:
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(number, "w", encoding="ascii") as stream:
                    stream.write(secrets.token_hex(32) + "\n")
            key = bytes.fromhex(file.read_text(encoding="ascii").strip())
        except OSError as error:
            raise StoreError(f"the key {file} cannot be used: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{file} is not a key: give a file that this command made") from error
        if len(key) < 32:
            raise ConfigError(f"{file} is not a key: it holds fewer than 64 hexadecimal digits")
        return cls(key)

    @property
    def fingerprint(self) -> str:
        """What tells two keys apart and leads back to neither."""
        return hashlib.sha256(self.key).hexdigest()[:12]

    def name(self, kind: str, value: str) -> str:
        """Return the pseudonym of a value, which begins with its kind; nothing for nothing."""
        if not value:
            return ""
        digest = hmac.digest(self.key, f"{kind}\0{value}".encode(errors="surrogatepass"), "sha256")
        return f"{kind}-{digest.hex()[:20]}"

    def rename(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table whose patients, images, sources and centres are pseudonyms."""
        renamed = table.copy()
        for column in NAMED.keys() & set(table.columns):
            kind = NAMED[column]
            names = {value: self.name(kind, str(value)) for value in table[column].unique()}
            renamed[column] = table[column].map(names)
        return renamed
