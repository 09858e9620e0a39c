"""What runs spent: labels read, tokens sampled and trained on, seconds, and money by the user's price list.

A quantity that a run cannot know is None (null in run.json), never 0: a sum that needs it is not known either.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from rmjax import json_file
from rmjax.decoding import decode
from rmjax.errors import UserError

VARIABLE = "RMJAX_PRICES"  # names the price list that every run reads: prices are the user's, no setting of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What things cost. What has no price is left out of the money."""

    currency: str = ""
    label: float | None = None  # one labelled pair
    million_sampled: float | None = None  # a million tokens generated
    million_trained: float | None = None  # a million tokens trained on
    hour: float | None = None  # of the machine

    @classmethod
    def read(cls, path: str | os.PathLike) -> Prices:
        """A price list, .json or .toml. Raises UserError that names the file and the field."""
        path = Path(path)
        if path.suffix == ".json":
            value = json_file.read(path)
        elif path.suffix == ".toml":
            try:
                value = tomllib.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
            except (tomllib.TOMLDecodeError, UnicodeError) as error:
                raise UserError(f"{path}: not valid TOML ({error}); write lines such as: label = 0.5") from None
        else:
            raise UserError(f"{path}: a price list is a .json or a .toml file")
        found = decode(value, cls, str(path))
        named = {f.name: getattr(found, f.name) for f in dataclasses.fields(cls) if f.name != "currency"}
        for name, price in named.items():
            if price is not None and not 0 <= price < math.inf:
                raise UserError(f"{path}: field {name!r} is {price}; give a price of at least 0")
        if not any(price is not None for price in named.values()):
            raise UserError(f"{path}: holds no price; give at least one of {', '.join(named)}")
        return found

    @classmethod
    def usual(cls) -> Prices | None:
        """The list that the environment variable names, if any."""
        path = os.environ.get(VARIABLE, "")
        return cls.read(path) if path else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """What a run spent, over all its attempts."""

    labels: Mapping[str, int] | None  # file, or who labelled -> labelled pairs read; held-out ones are labels as well
    tokens_sampled: int | None
    tokens_trained: int | None
    seconds: float | None
    at_least: bool = False  # an attempt was killed, or is not over: what it did last is not counted

    @property
    def labelled(self) -> int | None:
        """All labels."""
        return None if self.labels is None else sum(self.labels.values())

    def money(self, prices: Prices) -> Money:
        """What it cost."""
        amounts = {
            "labels": (prices.label, self.labelled, 1),
            "tokens sampled": (prices.million_sampled, self.tokens_sampled, 10**6),
            "tokens trained on": (prices.million_trained, self.tokens_trained, 10**6),
            "hours": (prices.hour, self.seconds, 3600),
        }
        parts = {
            name: None if amount is None else price * amount / unit
            for name, (price, amount, unit) in amounts.items()
            if price is not None
        }
        return Money(currency=prices.currency, parts=parts)

    def to_json(self, prices: Prices | None) -> dict[str, Any]:
        """The entry `spent` of run.json."""
        value = {**dataclasses.asdict(self), "labels": None if self.labels is None else dict(self.labels)}
        return {**value, "money": None if prices is None else self.money(prices).to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Money:
    """Cost by what was paid for; a part is None where the quantity is not known."""

    currency: str
    parts: Mapping[str, float | None]

    @property
    def total(self) -> float | None:
        """The sum; None where a part is."""
        known = [part for part in self.parts.values() if part is not None]
        return sum(known) if len(known) == len(self.parts) else None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"currency": self.currency, "total": self.total, "parts": dict(self.parts)}

    @property
    def words(self) -> str:
        """The total, or what is known of it and what is not."""
        if self.total is not None:
            return f"{self.total:,.2f} {self.currency}".strip()
        known = f"{sum(part or 0.0 for part in self.parts.values()):,.2f} {self.currency}".strip()
        return f"{known} and {', '.join(name for name, part in self.parts.items() if part is None)}, not known"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """The ledger of one workdir."""

    workdir: str
    spent: Spent
    hashes: Mapping[str, str]  # of the data: file -> hash


def read(workdir: str | os.PathLike) -> Entry:
    """What the run in a folder spent; of a run older than ledgers only its seconds are known.

    Args:
        workdir: or the file itself, such as `votes/ann.run.json` of a labelling job.

    Raises:
        UserError: no run.json there, or a broken one.
    """
    path = Path(workdir) if Path(workdir).is_file() else Path(workdir) / "run.json"
    run = json_file.read(path)
    known = isinstance(run, dict) and isinstance(run.get("attempts"), list)
    if not known or not all(isinstance(a, dict) for a in run["attempts"]) or not isinstance(run.get("spent", {}), dict):
        raise UserError(f"{path}: not the run.json of a run; give the --workdir of one")
    fields = {f.name for f in dataclasses.fields(Spent)}
    none = {"labels": None, "tokens_sampled": None, "tokens_trained": None, "seconds": run.get("seconds")}
    killed = any(a.get("seconds") is None for a in run["attempts"])
    value = {k: v for k, v in run.get("spent", {**none, "at_least": killed}).items() if k in fields}
    return Entry(workdir=str(workdir), spent=decode(value, Spent, f"{path}: spent"), hashes=run.get("data", {}))


def total(entries: Sequence[Entry]) -> Spent:
    """The sum over runs; a file's labels are bought once, however many runs read it (known by the content's hash).

    What is None in any run is None in the sum.
    """
    bought: dict[tuple[str, str], int] = {}
    for entry in entries:
        for file, n in (entry.spent.labels or {}).items():
            # Two runs on the same content share their labels; what no hash stands for is every run's own.
            key = ("file", entry.hashes[file]) if file in entry.hashes else (entry.workdir, file)
            bought[key] = max(n, bought.get(key, 0))
    add = lambda name: _sum([getattr(e.spent, name) for e in entries])
    known = all(e.spent.labels is not None for e in entries)
    return Spent(
        labels={f"{where}: {what}": n for (where, what), n in bought.items()} if known else None,
        tokens_sampled=add("tokens_sampled"),
        tokens_trained=add("tokens_trained"),
        seconds=add("seconds"),
        at_least=any(e.spent.at_least for e in entries),
    )


def _sum(values: Sequence[float | None]) -> Any:
    return None if None in values else sum(values)


def table(entries: Sequence[Entry], prices: Prices | None) -> Table:
    """What each run spent and all of them together."""
    out = Table(title="What was spent", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    head, *lines, last = rows(entries, prices)
    for name in head:
        out.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for cells in lines:
        out.add_row(*map(escape, cells))
    out.add_section()
    out.add_row(*map(escape, last))
    return out


def rows(entries: Sequence[Entry], prices: Prices | None) -> list[list[str]]:
    """The cells of that table: the names of its columns, each run, and the sum."""
    known = lambda value, form=",": "not known" if value is None else format(value, form)
    out = [["run", "labels", "tokens sampled", "tokens trained on", "hours", *(["money"] if prices else [])]]
    for name, s in [*((e.workdir, e.spent) for e in entries), ("all; shared labels once", total(entries))]:
        hours = None if s.seconds is None else s.seconds / 3600
        cells = [known(s.labelled), known(s.tokens_sampled), known(s.tokens_trained), known(hours, ",.2f")]
        cells += [s.money(prices).words] if prices else []
        out.append([name + (" (at least)" if s.at_least else ""), *cells])
    return out
