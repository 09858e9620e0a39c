"""The fields of one raw row, checked as they are taken: a mistake names the file, the line, the field and the value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from rmjax.decoding import show
from rmjax.errors import UserError


class Fields:
    """A row and where it came from. A field that is null counts as absent."""

    def __init__(self, where: str, row: Mapping[str, Any]):
        self.where = where
        self._row = {name: value for name, value in row.items() if value is not None}
        self.taken: set[str] = set()

    def fail(self, name: str, problem: str) -> NoReturn:
        raise UserError(f"{self.where}: field {name!r} {problem}")

    def has(self, name: str) -> bool:
        return name in self._row

    def take(self, name: str, default: Any = None) -> Any:
        """The raw value, or the default; a field not taken ends up in `rest`."""
        self.taken.add(name)
        return self._row.get(name, default)

    def require(self, name: str) -> Any:
        if not self.has(name):
            self.fail(name, "is missing; add it, or name the right column with the option `columns`")
        return self.take(name)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; without a default it must be there."""
        value = self.require(name) if default is None else self.take(name, default)
        if not isinstance(value, str):
            self.fail(name, f"is {show(value)}; a string is expected")
        return value

    def texts(self, name: str) -> list[str]:
        value = self.require(name)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.fail(name, f"is {show(value)}; a list of strings is expected")
        return value

    def number(self, name: str, *, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number within [low, high]; None where absent."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, f"is {show(value)}; a number is expected")
        try:
            value = float(value)
        except OverflowError:
            self.fail(name, f"is {show(value)}; it is too large")
        if not math.isfinite(value):
            self.fail(name, f"is {value}; a finite number is expected")
        if not low <= value <= high:
            self.fail(name, f"is {value}; it must lie within [{low:g}, {high:g}]")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name, False)
        if not isinstance(value, bool):
            self.fail(name, f"is {show(value)}; true or false is expected")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.take(name, {})
        if not isinstance(value, dict):
            self.fail(name, f"is {show(value)}; an object is expected")
        return value

    def name(self, name: str) -> str:
        """An id or label: a string, or an integer written as one; empty where absent."""
        value = self.take(name, "")
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.fail(name, f"is {show(value)}; a string or an integer is expected")
        return str(value)

    def rest(self) -> dict[str, Any]:
        """The fields that nothing took. Raises UserError for values that JSON lines could not hold (parquet)."""
        rest = {name: value for name, value in self._row.items() if name not in self.taken}
        for name, value in rest.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                self.fail(name, f"is {show(value)}; JSON cannot hold it: list it in the option `ignore`")
        return rest
