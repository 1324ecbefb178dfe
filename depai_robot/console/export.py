"""Tables as CSV and JSON files. A cell that a spreadsheet would run as a formula is made harmless."""

import csv
import io
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from depai_robot.values.error import ConfigError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value  # Source: OWASP, CSV injection
    return value


def to_csv(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> str:
    """Rows as CSV text with a head."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    return out.getvalue()


def write_export(folder: Path, name: str, rows: Sequence[dict[str, Any]], now_s: float) -> tuple[Path, Path]:
    """Writes ``name-<UTC>.csv`` and ``.json``; returns their paths.

    Raises:
        ConfigError: they can't be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    names = list(rows[0]) if rows else []
    table, document = folder / f"{name}-{stamp}.csv", folder / f"{name}-{stamp}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.write_text(to_csv(rows, names), encoding="utf-8")
        document.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"export to {folder}: {error.strerror or error}") from error
    return table, document
