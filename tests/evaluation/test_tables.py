"""The terminal's tables: the numbers are there, and markup in names is text."""

import dataclasses

import pytest
from rich.console import Console

from rmjax.evaluation import tables


def text(table) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_accuracy_table(report_data):
    shown = text(tables.accuracy_table(report_data.rows, report_data.baselines, title="held-out"))
    lines = shown.splitlines()
    row = report_data.rows[0]
    low, high = row.ci95
    line = next(x for x in lines if x.startswith(row.method))
    assert f"{100 * row.accuracy:.1f}" in line and f"{100 * low:.1f} to {100 * high:.1f}" in line
    assert "1,024 items" in line and "% ties" in line
    assert "5 label draws, one seed" in next(x for x in lines if x.startswith("GFRIEND"))
    assert lines.index(next(x for x in lines if "bag of words" in x)) > lines.index(line)


def test_comparison_table_says_not_distinguishable(report_data):
    shown = text(tables.comparison_table(report_data.comparisons))
    assert "not distinguishable" in shown and "A ahead" in shown and "B ahead" in shown


def test_calibration_table(report_data):
    shown = text(tables.calibration_table(report_data.calibration))
    assert f"{report_data.calibration['GFRIEND'].brier:.3f}" in shown


def test_markup_in_a_name_is_text(report_data):
    row = dataclasses.replace(report_data.rows[0], method="[red]DPO[/red] [/]")
    assert "[red]DPO[/red] [/]" in text(tables.accuracy_table([row], {}))


@pytest.mark.parametrize(
    ("p", "shown"), [(None, ""), (1e-9, "< 0.001"), (0.0494, "0.049"), (0.5, "0.50"), (1.0, "1.00")]
)
def test_p_values(p, shown):
    assert tables.p_text(p) == shown
