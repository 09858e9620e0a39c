"""What the inspect job shows: a table by severity in the terminal, and report.html with examples to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmjax.data.doctor.findings import SEVERITIES, Case, Finding
from rmjax.data.doctor.intake import Intake
from rmjax.evaluation import report
from rmjax.evaluation.pairwise import Accuracy
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.records import Preference

COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
CASES, MEMBERS = 3, 3  # examples of a finding on the page, and pairs of each
NOTES = 8  # in the terminal
LONG = 700  # characters of a text on the page
NOTE = (
    "<b>Errors</b> spoil training or a test, or stop a job; <b>warnings</b> are what a reward model can learn instead "
    "of the answer, or what makes a test easier than it looks; <b>notes</b> are good to know. Nothing is changed."
)
READ = "A few of the pairs, in the order of the file where nothing else is said; findings.jsonl has every case."


def show(console: Console, intake: Intake, found: Sequence[Finding], words: Accuracy | None) -> None:
    """Prints the table."""
    console.print(f"\n[bold]{escape(intake.path)}[/]: {lead(intake, words)}")
    if not found:
        console.print("nothing found")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "finding", "count", "share", "first example", "what to do"):
        numeric = name in ("count", "share")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric or not name, overflow="fold")
    notes = [f for f in found if f.severity == "note"]
    for f in [f for f in found if f.severity != "note"] + notes[:NOTES]:
        said = escape(f.title) + (f"\n[dim]{escape(f.detail)}[/]" if f.detail else "")
        example = escape(", ".join((f.cases[0].ids or f.cases[0].where)[:2])) if f.cases else ""
        severity = f"[{COLOURS[f.severity]}]{f.severity}[/]"
        table.add_row(severity, said, f"{f.count:,}", share(f), example, escape(f.advice))
    console.print(table)
    if len(notes) > NOTES:
        console.print(f"and {len(notes) - NOTES} more notes in the report")


def lead(intake: Intake, words: Accuracy | None) -> str:
    """The file in a sentence."""
    said = f"{len(intake.records):,} pairs, schema {intake.schema}"
    if intake.faults:
        said += f", {len(intake.faults):,} unreadable"
    if words is not None:
        low, high = words.ci95
        said += f"; a bag of words is right on {100 * words.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return said


def share(f: Finding) -> str:
    """A finding's count as a percentage."""
    return f"{100 * f.count / f.of:.1f} %" if f.of else ""


def write(
    path: Path, intake: Intake, found: Sequence[Finding], words: Accuracy | None, *, run: Mapping[str, Any]
) -> None:
    """report.html: an overview, then a section a kind of finding. Raises UserError where it cannot be written."""
    counts = Counter(f.severity for f in found)
    said = ", ".join(f"{counts[s]} {s}{'' if counts[s] == 1 else 's'}" for s in SEVERITIES if counts[s]) or "none"
    panels = [Panel(id="findings", title=f"Findings: {said}", note=Markup(NOTE), body=overview(found))]
    kinds = dict.fromkeys(f.kind for f in found if f.cases)
    for kind in kinds:
        of = [f for f in found if f.kind == kind and f.cases]
        title = of[0].title if len(of) == 1 else f"{kind} ({len(of)})"
        body = _join(section(f, intake.records, alone=len(of) == 1) for f in of)
        panels.append(Panel(id=kind, title=title[:1].upper() + title[1:], note=READ, body=body))
    data = ReportData(
        title="What is in the preference data",
        testbed=intake.path,
        lead=f"{lead(intake, words)[:1].upper()}{lead(intake, words)[1:]}.",
        panels=panels,
        run=run,
    )
    report.write(path, data)


def overview(found: Sequence[Finding]) -> Markup:
    """All findings as a table."""
    row = Markup(
        '<tr><td><b>{}</b></td><td>{}<span class="sub">{}</span></td><td class="num">{:,}</td><td class="num">{}</td>'
        "<td>{}</td></tr>"
    )
    under = lambda f: "; ".join(filter(None, (f.detail, "" if f.unit == "pairs" else f"counted: {f.unit}")))
    title = lambda f: Markup('<a href="#{}">{}</a>').format(f.kind, f.title) if f.cases else f.title
    rows = _join(row.format(f.severity, title(f), under(f), f.count, share(f), f.advice) for f in found)
    head = Markup(
        '<tr><th></th><th style="width: 45%">finding</th><th class="num">count</th><th class="num">share</th>'
        '<th style="width: 35%">what to do</th></tr>'
    )
    return Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(head, rows)


def section(f: Finding, records: Sequence[Preference], *, alone: bool) -> Markup:
    """A finding's first cases."""
    head = Markup("") if alone else Markup("<h3>{}</h3>").format(f.title)
    said = Markup("<p>{:,} of {:,} {}{}</p>").format(f.count, f.of, f.unit, f": {f.detail}" if f.detail else "")
    return head + said + _join(case(c, records) for c in f.cases[:CASES])


def case(c: Case, records: Sequence[Preference]) -> Markup:
    """One case: where it is, and its pairs side by side."""
    head = Markup(
        '<header><span class="badge">{}</span><span class="small">{}</span><span class="small">{}</span></header>'
    )
    body = _join(_pair(records[i]) for i in c.members[:MEMBERS])
    ids, where = ", ".join(c.ids[: MEMBERS + 1]), ", ".join(c.where[: MEMBERS + 1])
    return Markup('<article class="reading">{}{}</article>').format(head.format(ids, where, c.detail), body)


def _pair(p: Preference) -> Markup:
    prompt = "\n\n".join(m.content if len(p.prompt) == 1 else f"{m.role}: {m.content}" for m in p.prompt)
    text = Markup('<p class="text" dir="auto">{}</p>')
    return Markup(
        '<p class="label">Prompt</p>{}<div class="answers">'
        '<div class="chosen"><p class="label"><b>chosen</b></p>{}</div>'
        '<div><p class="label"><b>rejected</b></p>{}</div></div>'
    ).format(*(text.format(_shown(t)) for t in (prompt, p.chosen, p.rejected)))


def _shown(text: str) -> str:
    """A text, cut in the middle, with what cannot be seen written out."""
    cut = text if len(text) <= LONG else f"{text[: LONG // 2]} […] {text[-LONG // 2 :]}"
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in cut)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
