"""Reads a table as people keep it: Parquet, CSV, Arrow or JSON lines, in one file or a folder of parts."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq

from contract.dataset import DatasetError, TableFile

KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".dat": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
"""What a file's ending says of how it is written."""
PACKED = (".gz", ".bz2", ".zst", ".lz4")
DELIMITERS = ",;\t|"
BINARY = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
"""Characters that no column's name has: those of files that hold no text, and of text of another encoding."""
SAMPLE = 1 << 18
"""Bytes of a CSV file that are looked at to find its encoding and its delimiter."""


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table as it was read: `is_text` where the file knows no types, so that every value is text; `said` is
    what was found out on the way, a line each; `name` what the user calls the file or folder, where there is
    one; `is_derived` where the table has none, and its ids are those of the interactions."""

    data: pa.Table
    is_text: bool
    said: tuple[str, ...] = ()
    name: str = ""
    is_derived: bool = False


class FileProblemError(DatasetError):
    """Says why a table's file cannot be read, and what to do."""


def find_parts(folder: Path, table: str, declared: TableFile) -> list[Path]:
    """Lists the files of a table, in order: `path` where told, else the table's name with a known ending, or
    a folder of that name. Empty where there is none.

    Raises:
        FileProblemError: there are several, the told one is missing, or a folder mixes kinds.
    """
    if declared.path is not None:
        place = folder / declared.path
        if not place.exists():
            raise FileProblemError(
                f"{place}: not found, and files.{table}.path in dataset.yaml names it; correct the path"
            )
        found = [place]
    else:
        found = [
            p
            for p in sorted(folder.glob(f"{table}*"))
            if (p.name == table and p.is_dir()) or _is_of(p, table)
        ]
    if len(found) > 1:
        names = ", ".join(place.name for place in found)
        raise FileProblemError(
            f"{folder}: {table} is there several times ({names}); name one with files.{table}.path in "
            "dataset.yaml"
        )
    return [part for place in found for part in (_parts(place, table) if place.is_dir() else [place])]


def _is_of(path: Path, table: str) -> bool:
    return path.is_file() and _kind(path) is not None and path.name.split(".")[0] == table


def _parts(folder: Path, table: str) -> list[Path]:
    """Lists the data files under a folder; what begins with a dot or an underscore is a program's note."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(part[0] in "._" for part in file.relative_to(folder).parts)
        and _kind(file)
    ]
    if not files:
        raise FileProblemError(f"{folder}: no file of {table} in it ({', '.join(KINDS)} are read); write one")
    if len({_kind(file) for file in files}) > 1:
        raise FileProblemError(f"{folder}: its files are of several kinds; keep one kind")
    return files


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def read_parts(parts: list[Path], table: str, declared: TableFile) -> RawTable:
    """Reads the files of a table as one, columns that a part lacks being null there.

    Raises:
        FileProblemError: a file is not what its ending says, or two parts disagree about a column's type.
    """
    tables = [_read(part, table, declared) for part in parts]
    try:
        data = pa.concat_tables([read.data for read in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise FileProblemError(
            f"{parts[0].parent}: its parts disagree: {_first_line(error)}; write them with one schema"
        ) from None
    said = dict.fromkeys(line for read in tables for line in read.said)
    return RawTable(data, tables[0].is_text, tuple(said))


def _read(file: Path, table: str, declared: TableFile) -> RawTable:
    kind = _kind(file)
    if kind is None:
        raise FileProblemError(f"{file}: cannot tell what it is by its ending; use one of {', '.join(KINDS)}")
    try:
        if kind == "csv":
            return _read_csv(file, table, declared)
        if kind == "parquet" and _is_lines_of_text(file):
            text = _read_csv(file, table, declared)
            said = (*text.said, f"{file.name}: is no parquet file but text, read as CSV")
            return RawTable(text.data, is_text=True, said=said)
        return RawTable(_distinct(_READERS[kind](file), file), is_text=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OSError, UnicodeError) as error:
        names = {
            "parquet": "a parquet file",
            "csv": "a table of text",
            "arrow": "an Arrow file",
            "json": "JSON lines",
        }
        raise FileProblemError(
            f"{file}: not {names[kind]} (0 rows could be read: {_first_line(error)}); "
            + _remedy(kind, table, error)
        ) from None


def _remedy(kind: str, table: str, error: Exception) -> str:
    if kind == "json":
        return "write one object a line, and one type of value a column"
    if kind == "csv" and (isinstance(error, UnicodeError) or "UTF8" in str(error)):
        return f"set files.{table}.encoding to what it is written in, or take it out"
    if kind == "csv" and "CSV parse" in str(error):
        return f"quote values that hold the delimiter, or set files.{table}.delimiter"
    return "write it again"


def _distinct(data: pa.Table, file: Path) -> pa.Table:
    """Refuses a table in which a name is that of several columns."""
    if doubled := sorted({name for name in data.column_names if data.column_names.count(name) > 1}):
        raise FileProblemError(f"{file}: names {doubled} for several columns; give each a name of its own")
    return data


def _is_lines_of_text(file: Path) -> bool:
    """Whether a file is a CSV with at least one row, whatever its ending says."""
    with file.open("rb") as opened:
        sample = opened.read(SAMPLE)
    return b"\0" not in sample and not sample.startswith(b"PAR1") and sample.strip().count(b"\n") > 0


def _read_arrow(file: Path) -> pa.Table:
    try:
        return pyarrow.feather.read_table(file, memory_map=False)
    except pa.ArrowInvalid:
        with pa.input_stream(str(file)) as stream:
            return pa.ipc.open_stream(stream).read_all()


def _read_json(file: Path) -> pa.Table:
    with pa.input_stream(str(file)) as stream:
        return pyarrow.json.read_json(stream)


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    "parquet": lambda file: pq.ParquetFile(file).read(),
    "arrow": _read_arrow,
    "json": _read_json,
}


def _read_csv(file: Path, table: str, declared: TableFile) -> RawTable:
    """Reads every value as text: what a number, a date or a word is, the declaration says."""
    with pa.input_stream(str(file)) as stream:
        sample = stream.read(SAMPLE)
    if not sample.strip():
        raise FileProblemError(
            f"{file}: is empty (0 rows); write the table with a first line that names its columns"
        )
    said: list[str] = []
    encoding = declared.encoding or _encoding(sample, said, file, table)
    try:
        text = sample.decode(encoding, "replace")
    except LookupError:
        raise FileProblemError(
            f"{file}: encoding {encoding!r} is not known; write one such as utf-8, utf-16 or latin-1"
        ) from None
    lines = text.splitlines()
    delimiter = declared.delimiter or _delimiter(lines[0])
    if declared.delimiter is None and delimiter != ",":
        said.append(f"{file.name}: columns are separated by {delimiter!r}")
    columns = [name.strip().lstrip("\ufeff") for name in _header(text, delimiter, file, table)]
    _distinct(pa.table([pa.array([], pa.string()) for _ in columns], columns), file)
    with pa.input_stream(str(file)) as stream:
        data = pyarrow.csv.read_csv(
            stream,
            pyarrow.csv.ReadOptions(encoding=encoding, column_names=columns, skip_rows=1),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    return RawTable(data, is_text=True, said=tuple(said))


def _header(text: str, delimiter: str, file: Path, table: str) -> list[str]:
    """Reads the first line, which names the columns; lines end by LF, CR LF or CR.

    Raises:
        FileProblemError: it is no text, or none that is a line of a table.
    """
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise FileProblemError(
            f"{file}: not a table of text (its first line cannot be read: {error}); close its quotes, or set "
            f"files.{table}.delimiter"
        ) from None
    if BINARY.search("".join(header)):
        raise FileProblemError(
            f"{file}: not a table of text (its first line holds bytes that no text has); write it as CSV, or "
            f"name it by what it is ({', '.join(KINDS)}), or set files.{table}.encoding"
        )
    return header


def _encoding(sample: bytes, said: list[str], file: Path, table: str) -> str:
    """Finds how letters are coded: by a byte order mark, as UTF-8 where it is that, else as Windows'."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if sample.startswith(mark):
            return name
    try:
        sample[: len(sample) - 4 if len(sample) == SAMPLE else None].decode()
        return "utf-8"
    except UnicodeDecodeError as error:
        if len(sample) == SAMPLE and error.start > SAMPLE - 8:
            return "utf-8"  # the sample ends within a letter
    found = "cp1252"
    said.append(f"{file.name}: is not UTF-8, read as {found}; set files.{table}.encoding where that is wrong")
    return found


def _delimiter(header: str) -> str:
    counts = {mark: header.count(mark) for mark in DELIMITERS}
    best = max(DELIMITERS, key=lambda mark: counts[mark])
    return best if counts[best] else ","


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def table_files(folder: Path) -> list[Path]:
    """Lists the files in a folder that may hold a table, by their endings."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and _kind(file) is not None]


def all_files(folder: Path, files: dict[str, TableFile]) -> Iterator[Path]:
    """Lists every file that a data set in a folder is made of; what cannot be told yet is left out."""
    for table in ("users", "items", "interactions"):
        try:
            yield from find_parts(folder, table, files.get(table, TableFile()))
        except FileProblemError:
            continue
