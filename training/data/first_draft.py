"""Looks at somebody's files and writes a first `dataset.yaml`: a role for each column, and why.

A draft is a guess that says so: each line has its reason as a comment, and what was not understood is left
out and named. It is written to be read, corrected and kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from contract.dataset import DATASET_FILE, DatasetError, TableFile
from contract.whole_file import whole_file
from training.data.files import KINDS, RawTable, read_parts
from training.data.lists import read_brackets
from training.data.times import FORMATS, ISO, unit_of

WORDS = {
    "users": r"user|customer|member|client|account|people|person|reader|visitor",
    "items": r"item|product|movie|film|book|song|track|artist|article|video|catalog|sku|listing",
}
"""What a file's name says of its table."""
_ENDINGS = ("id|uuid|guid|no|nr|number|key|code", "slug", "", "name|login|handle|email|title|description")
"""What the name of an id's column ends with, the likeliest first. That of a name or a title is one where
there is nothing else: beside an id it is shown."""


def _of_ids(words: str, codes: str) -> tuple[re.Pattern[str], ...]:
    """Gives patterns of the names of an id's column, the likeliest first: a word with each ending, and after
    the first the codes that are ids by themselves, such as `isbn` or `product_sku`."""
    ends = [rf"^(?:{words})s?[ _-]?(?P<end>{ending})$" for ending in _ENDINGS]
    ends.insert(1, rf"^(?:(?:{words})s?[ _-]?)?(?P<end>{codes})(?:[ _-]?(?:{_ENDINGS[0]}))?$")
    return tuple(re.compile(end, re.IGNORECASE) for end in ends)


USER = _of_ids("user|customer|member|client|account|person|reader|visitor|household|session", "uid|login")
ITEM = _of_ids(
    "item|product|movie|film|book|song|track|artist|article|video|listing",
    "sku|asin|isbn(?:[ _-]?1[03])?|ean(?:[ _-]?13)?|upc|gtin",
)
TIME = re.compile(r"time|date|^ts$|when|_at$|^at$|^day$", re.IGNORECASE)
RATING = re.compile(r"rating|stars|score|grade", re.IGNORECASE)
COUNT = re.compile(r"count|weight|plays|quantity|amount|qty|times|number", re.IGNORECASE)
NAME = re.compile(r"name|title|label|description", re.IGNORECASE)
EVENT = re.compile(
    r"^(event|action|behaviou?r|interaction|activity)[ _-]?(type|name)?$|^type$", re.IGNORECASE
)
CODE = re.compile(r"(id|code|key)$", re.IGNORECASE)
LINK = re.compile(r"url|link|image|picture|href|photo", re.IGNORECASE)
AVAILABLE = re.compile(r"avail|in[ _]?stock|active|on[ _]?shelf|sellable", re.IGNORECASE)
FEW = 0.2
"""Share of distinct values above which a text is an item's own, such as a title, and no category."""
MOST_EVENTS = 20
"""Words of what was done above which they are no kinds of events."""
ROWS = 20_000
"""Rows that are looked at."""


@dataclass(frozen=True)
class DraftLine:
    """One column's line: its name with us, the keys, and why."""

    name: str
    keys: dict[str, object]
    why: str


def write_draft(folder: Path) -> tuple[Path, list[str]]:
    """Writes `folder/dataset.yaml` from the files in it; gives its path, and what to decide.

    Raises:
        DatasetError: there is one already, no file can be read, or none looks like interactions.
    """
    target = folder / DATASET_FILE
    if target.exists():
        raise DatasetError(f"{target}: is there already; change it, or move it away to begin anew")
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; name the one that holds your files")
    found = _tables(folder)
    text, open_ends = _draft(folder, found)
    with whole_file(target) as file:
        file.write(text.encode())
    return target, open_ends


def _tables(folder: Path) -> dict[str, tuple[Path, RawTable]]:
    """Reads the files of a folder and says which is which table: the largest with columns of both a user and
    an item is the interactions, the others go by their names."""
    read = {
        file: read_parts([file], file.stem, TableFile())
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.stem.lower().startswith("readme") and _is_table(file)
    }
    if not read:
        raise DatasetError(f"{folder}: no table in it; files end with one of {', '.join(KINDS)}")
    both = [file for file, table in read.items() if _is_log(table)]
    if not both:
        columns = "; ".join(
            f"{file.name}: {', '.join(table.data.column_names[:8])}" for file, table in read.items()
        )
        raise DatasetError(
            f"{folder}: no file has a column of users and one of items ({columns}); write dataset.yaml by "
            "hand and name them with `from:`, see docs/your-data.md"
        )
    log = max(both, key=lambda file: read[file].data.num_rows)
    found = {"interactions": (log, read.pop(log))}
    for table in ("users", "items"):
        for file in list(read):
            if table not in found and re.search(WORDS[table], file.stem, re.IGNORECASE):
                found[table] = (file, read.pop(file))
    return found


def _is_log(table: RawTable) -> bool:
    return all(_first(table.data.column_names, patterns) for patterns in (USER, ITEM))


def _is_table(file: Path) -> bool:
    return any(suffix.lower() in KINDS for suffix in file.suffixes)


def _first(columns: Iterable[object], patterns: Sequence[re.Pattern[str]]) -> str | None:
    """Finds the column whose name is that of an id by the likeliest of some patterns."""
    names = [str(column) for column in columns]
    return next((name for pattern in patterns for name in names if pattern.match(name.strip())), None)


def _draft(folder: Path, found: dict[str, tuple[Path, RawTable]]) -> tuple[str, list[str]]:
    open_ends: list[str] = []
    name = re.sub(r"[^a-z0-9_]+", "_", folder.resolve().name.lower()).strip("_") or "mine"
    out = [
        "# A first draft, made by `python -m training init`. Each line says why; correct what is wrong,",
        f"# then run `make data DATA={folder}`. What the keys mean: docs/your-data.md.",
        f"name: {name if name[0].isalpha() else 'd_' + name}",
    ]
    paths = {table: file.name for table, (file, _) in found.items() if file.stem != table}
    if paths:
        out.append("files:")
        out += [f"  {table}: {{path: {_yaml(path)}}}" for table, path in paths.items()]
    log = found["interactions"][1].data.column_names
    keys = {"user_id": _first(log, USER), "item_id": _first(log, ITEM)}
    frames = {table: _looked_at(rows.data, table) for table, (_, rows) in found.items()}
    ids = {key: {"role": "id"} | _dtype_of(key, keys, frames) for key in keys}
    for table in ("users", "items", "interactions"):
        out.append(f"{table}:")
        if table not in found:
            key = "user_id" if table == "users" else "item_id"
            source = keys[key]
            out.append(
                f"  {key}: {_keys(ids[key] | _from(key, source))}  # no file: those of the interactions"
            )
            continue
        lines = list(_lines(table, frames[table], keys, ids, open_ends))
        out += [f"  {line.name}: {_keys(line.keys)}  # {line.why}" for line in lines]
        out += [f"  # {note}" for note in _left_out(found[table][1].data, frames[table], lines)]
    return "\n".join(out) + "\n", open_ends


def _looked_at(data: pa.Table, table: str) -> pd.DataFrame:
    """Takes a table, gives the first rows of the columns for which there may be a role: those of structs,
    bytes and durations have none, and times only in the log."""
    columns = [
        field.name
        for field in data.schema
        if field.name.strip()
        and not pa.types.is_struct(field.type)
        and not pa.types.is_map(field.type)
        and not pa.types.is_binary(field.type)
        and not pa.types.is_duration(field.type)
        and not pa.types.is_time(field.type)
        and (table == "interactions" or not pa.types.is_temporal(field.type))
    ]
    return data.select(columns).slice(0, ROWS).to_pandas(safe=False)  # the year 1 is a time all the same


def _lines(
    table: str,
    frame: pd.DataFrame,
    keys: dict[str, str | None],
    ids: dict[str, dict[str, object]],
    open_ends: list[str],
) -> Iterator[DraftLine]:
    taken: set[str] = set()
    for key in _keys_of(table):
        source = _key_of(frame, key, keys)
        taken.add(source)
        yield DraftLine(key, ids[key] | _from(key, source), "who" if key == "user_id" else "what")
    names, has_name = set(_keys_of(table)), False
    for column in frame.columns.difference(list(taken), sort=False):
        line = _line(table, column, frame[column], has_name)
        while line is not None and line.name in names:
            line = _renamed(line, column)
        if line is not None:
            names.add(line.name)
            has_name |= line.keys["role"] == "display_name"
            yield line
    if table == "interactions" and not any(
        one.search(c) for c in frame.columns for one in (RATING, COUNT, EVENT)
    ):
        open_ends.append(
            "interactions: no column looks like a label: what is in the log counts as chosen; if a column "
            "says what was liked, give it `role: label` and `positive:`"
        )


def _renamed(line: DraftLine, column: str) -> DraftLine | None:
    """Gives a line another name than one that is there, such as `id` beside the id; a log has one time."""
    if line.keys["role"] == "timestamp":
        return None
    return replace(line, name=f"{line.name}_given", keys=line.keys | {"from": column})


def _keys_of(table: str) -> list[str]:
    return {"users": ["user_id"], "items": ["item_id"]}.get(table, ["user_id", "item_id"])


def _dtype_of(key: str, keys: dict[str, str | None], frames: dict[str, pd.DataFrame]) -> dict[str, object]:
    """Says `dtype: string` of an id that is no integer of 64 bits in any of its tables."""
    for table, frame in frames.items():
        if key in _keys_of(table):
            values = frame[_key_of(frame, key, keys)].dropna()
            texts = values.astype(str).str.strip()
            is_whole = texts.str.fullmatch(r"[+-]?\d{1,18}(\.0*)?").all()
            if not is_whole and not pd.api.types.is_signed_integer_dtype(values):
                return {"dtype": "string"}
    return {}


def _key_of(frame: pd.DataFrame, key: str, keys: dict[str, str | None]) -> str:
    """Finds the id's column in a table: by the log's name for it, by how that ends (`slug` for the log's
    `movie_slug`), by its looks, `id`, else the first."""
    columns, patterns = [str(column) for column in frame.columns], USER if key == "user_id" else ITEM
    of_log = keys[key] or ""
    end = _end(of_log, patterns)
    likely = [
        *(column for column in columns if column == of_log),
        *(column for column in columns if _end(column, patterns) == end),
        *(column for column in columns if column.strip().lower() == end),
        _first(columns, patterns[:-2]),
        *(column for column in columns if column.lower() == "id"),
    ]
    return next((column for column in likely if column), columns[0])


def _end(column: str, patterns: Sequence[re.Pattern[str]]) -> str | None:
    """Gives what the name of an id's column ends with, apart from its word; None where it is none."""
    found = next((said for pattern in patterns if (said := pattern.match(column.strip()))), None)
    return found["end"].lower() if found else None


def _line(table: str, column: str, values: pd.Series, has_name: bool) -> DraftLine | None:
    known = _without_brackets(values.dropna())
    if known.empty or LINK.search(column):
        return None
    number = pd.to_numeric(known, errors="coerce") if not _is_list(known) else pd.Series(dtype="float64")
    is_number = (
        len(number) == len(known) and number.notna().all() and not pd.api.types.is_datetime64_any_dtype(known)
    )
    if is_number and np.isinf(number.to_numpy(np.float64, na_value=0)).any():
        return None
    if table == "interactions":
        return _of_the_log(column, known, number, is_number)
    prefix = "user_" if table == "users" else "item_"
    name = column if column.startswith(prefix) else prefix + _plain(column)
    more = _from(name, column)
    if table == "items" and AVAILABLE.search(column):
        return DraftLine(name, {"role": "availability"} | more, "its name: false is never answered")
    if _is_list(known):
        if _element(known) == "float32":
            return DraftLine(name, {"role": "embedding"} | more, "lists of numbers: an embedding?")
        return DraftLine(name, {"role": "list", "dtype": _element(known)} | more, "holds lists")
    if is_number:
        is_few = number.nunique() <= min(200, FEW * len(number))
        if (number % 1 == 0).all() and (is_few or CODE.search(column)):
            return DraftLine(
                name, {"role": "categorical"} | more, f"{number.nunique()} whole numbers: codes?"
            )
        return DraftLine(
            name, {"role": "numeric"} | more, f"numbers from {number.min():g} to {number.max():g}"
        )
    texts = known.astype(str)
    mark = next((m for m in "|;" if texts.str.contains(m, regex=False).mean() > 0.3), None)
    if mark:
        keys = {"role": "list", "dtype": "string", "separator": mark} | more
        return DraftLine(name, keys, f"text with {mark!r} between values")
    if table == "items" and not has_name and NAME.search(column):
        return DraftLine(name, {"role": "display_name"} | more, "its name: shown with an answer")
    if texts.nunique() <= FEW * len(texts):
        return DraftLine(
            name, {"role": "categorical", "dtype": "string"} | more, f"{texts.nunique()} different texts"
        )
    return (
        DraftLine(name, {"role": "display"} | more, "nearly all different: shown only")
        if table == "items"
        else None
    )


def _of_the_log(column: str, known: pd.Series, number: pd.Series, is_number: bool) -> DraftLine | None:
    if TIME.search(column) or pd.api.types.is_datetime64_any_dtype(known):
        return DraftLine(
            "timestamp", {"role": "timestamp"} | _from("timestamp", column) | _time(known, number), "its name"
        )
    name = "is_" + _plain(column) if not column.startswith("is_") else column
    more = _from(name, column)
    if not is_number:
        words = [] if _is_list(known) else known.astype(str).value_counts().index.tolist()
        if not (EVENT.search(column) and 1 < len(words) <= MOST_EVENTS):
            return None
        why = f"what was done: all but the most frequent, {words[0]}, is positive; decide"
        return DraftLine(name, {"role": "label", "positive": sorted(words[1:])} | more, why)
    if set(number.unique()) <= {0, 1}:
        return DraftLine(name, {"role": "label"} | more, "0 and 1")
    if RATING.search(column):
        bound = np.quantile(number, 0.5)
        why = f"ratings from {number.min():g} to {number.max():g}: half of them are positive; decide"
        return DraftLine(name, {"role": "label", "positive": f">= {bound:g}"} | more, why)
    if COUNT.search(column):
        return DraftLine(name, {"role": "label", "positive": "> 0"} | more, "counts: any is positive; decide")
    return None


def _time(known: pd.Series, number: pd.Series) -> dict[str, object]:
    """Says how a column is read as time, where that can be told from its values."""
    if pd.api.types.is_datetime64_any_dtype(known):
        return {}
    if len(number) == len(known) and number.notna().all():
        unit = unit_of(float(number.max()))
        return {"unit": unit} if unit else {}
    texts = known.astype(str)
    if texts.str.match(ISO).all():
        return {}
    fits = [p for p in FORMATS if pd.to_datetime(texts, format=p, errors="coerce").notna().all()]
    return {"format": fits[0]} if len(fits) == 1 else {}


def _left_out(data: pa.Table, frame: pd.DataFrame, lines: list[DraftLine]) -> Iterator[str]:
    used = {line.keys.get("from", line.name) for line in lines}
    for column in data.column_names:
        if column not in used:
            values = frame[column].dropna().head(3) if column in frame else []
            shown = dict.fromkeys(" ".join(str(value).split())[:30] for value in values)
            hint = f"such as {', '.join(shown)}" if shown else data[column].type
            yield f"not used: {' '.join(column.split())} ({hint}); no role was clear"


def _without_brackets(known: pd.Series) -> pd.Series:
    """Gives the lists that a column's text writes in brackets; the column, where it does not."""
    if not all(isinstance(value, str) and value.strip()[:1] == "[" for value in known):
        return known
    try:
        return known.map(read_brackets)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return known


def _is_list(known: pd.Series) -> bool:
    return isinstance(known.iloc[0], list | np.ndarray)


def _element(known: pd.Series) -> str:
    flat = [v for some in known.head(100) for v in some if v is not None]
    if flat and all(isinstance(v, int | np.integer) for v in flat):
        return "int64"
    return "float32" if flat and all(isinstance(v, float | np.floating) for v in flat) else "string"


def _plain(column: str) -> str:
    return re.sub(r"\W+", "_", column.strip()).strip("_").lower() or "column"


def _from(name: str, source: str | None) -> dict[str, object]:
    return {} if source in (None, name) else {"from": source}


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, allow_unicode=True).splitlines()[0].removesuffix("...").strip()


def _keys(keys: dict[str, object]) -> str:
    dumped = yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return dumped.strip()
