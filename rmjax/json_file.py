"""One JSON value a file: read with checks, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmjax import jsonl
from rmjax.errors import UserError


def read(path: Path) -> Any:
    """A file's value. Raises UserError where it is missing or broken."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return jsonl.parse(text, str(path), mend="check or copy the file again")


def write(path: Path, value: Any) -> None:
    """Writes a file whole, indented. Raises UserError where it cannot be written or a value is not JSON (NaN)."""
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from None
    with jsonl.writing(path), jsonl.replacing(path) as file:
        file.write(text.encode() + b"\n")
