"""Tables of curves: a row a method, a column a place (round, number of labels), a mean with half its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from rmjax.evaluation.curves import Dot, Point
from rmjax.evaluation.pairwise import Comparison


def cell(dot: Dot, *, sign: str = "", mark: bool = False) -> str:
    """A mean in percent with half the width of its interval; `sign` "+" for differences, a star where it stands."""
    return f"{100 * dot.value:{sign}.1f}±{50 * (dot.high - dot.low):.1f}{'*' * mark}"


def grid(lines: Mapping[str, Sequence[Dot]], *, across: str) -> Markup:
    """The table as HTML. Every method has the same places."""
    places = [dot.x for dot in next(iter(lines.values()))]
    head = Markup("").join(Markup('<th class="num">{} {}</th>').format(across, f"{x:,}") for x in places)
    cells = lambda dots: Markup("").join(Markup('<td class="num">{}</td>').format(cell(dot)) for dot in dots)
    body = Markup("\n").join(Markup("<tr><td>{}</td>{}</tr>").format(m, cells(dots)) for m, dots in lines.items())
    return Markup("<table><thead><tr><th>accuracy, %</th>{}</tr></thead><tbody>\n{}\n</tbody></table>").format(
        head, body
    )


def grid_table(lines: Mapping[str, Sequence[Dot]], *, across: str) -> Table:
    """The table for the terminal."""
    places = [dot.x for dot in next(iter(lines.values()))]
    return _table(across, places, {name: {dot.x: cell(dot) for dot in dots} for name, dots in lines.items()})


def difference_table(found: Mapping[Point, Comparison], *, across: str) -> Table:
    """Differences in points for the terminal, a star where one stands after Holm's correction (`curves.holm`)."""
    rows: dict[str, dict[int, str]] = {}
    for (name, x), c in found.items():
        d = c.difference
        rows.setdefault(name, {})[x] = cell(Dot(x, d.value, d.low, d.high), sign="+", mark=c.distinguishable)
    return _table(across, sorted({x for row in rows.values() for x in row}), rows)


def _table(across: str, places: Sequence[int], rows: Mapping[str, Mapping[int, str]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(across)
    for x in places:
        table.add_column(f"{x:,}", justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(escape(name), *(row.get(x, "") for x in places))
    return table
