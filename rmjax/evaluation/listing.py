"""A small table of words and numbers that a job shows beside its accuracies: in the terminal and on its page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from rmjax.evaluation.sections import Panel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """Lines of cells under names; the first column is words, the others are numbers."""

    id: str  # its anchor on a page
    title: str
    names: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str = ""  # how to read it

    def table(self) -> Table:
        """For the terminal, without title and note."""
        out = Table(box=None, padding=(0, 2, 0, 0))
        for i, name in enumerate(self.names):
            out.add_column(name, justify="right" if i else "left", no_wrap=True)
        for line in self.lines:
            out.add_row(*map(escape, line))
        return out

    def panel(self) -> Panel:
        """For a page."""
        head, body = _row("th", self.names), Markup("").join(_row("td", line) for line in self.lines)
        table = Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(head, body)
        return Panel(id=self.id, title=self.title, note=self.note, body=table)


def _row(tag: str, cells: Sequence[str]) -> Markup:
    kinds = ("", *[' class="num"'] * (len(cells) - 1))
    return Markup("<tr>{}</tr>").format(
        Markup("").join(
            Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), Markup(kind), cell)
            for kind, cell in zip(kinds, cells, strict=True)
        )
    )
