"""What the compile job shows: one table a point, or of many points one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rmjax.aot.chips import GIB, Chip

PARTS = ("matrix", "kernels", "memory", "copies", "communication")
NOTE = (
    "Estimates: nothing has run. Times of matrix products, memory-bound operations and copies are the compiler's "
    "cycles; kernels and communication are bounds (docs/compile.md)."
)


def words(point: Any) -> str:
    """A point in one line."""
    p = point if isinstance(point, Mapping) else vars(point)
    pieces = f", {p['microbatches']} microbatches" if p["microbatches"] > 1 else ""
    mesh = f"{p['data']} x {p['fsdp']} x {p['tensor']}"
    return f"mesh {mesh}, {p['rows']} rows a chip{pieces}, remat {p['remat']}"


def show(console: Console, facts: Mapping[str, Any], chip: Chip, found: Sequence[Any], best: Any) -> None:
    """Prints what was found."""
    title = f"{facts['program']}, {facts['model']} on {facts['topology']} ({facts['chips']} chips)"
    if len(found) > 1:
        console.print(listing(title, chip, found, best))
    if best is None:
        lines = [f"{words(f.point)}: {f.why or f'needs {_gib(f.needs)} of {_gib(chip.hbm)}'}" for f in found]
        console.print(f"[bold]does not fit[/] {title}", *(lines if len(found) == 1 else ()), sep="\n")
        return
    console.print(detail(f"{title}: {words(best.point)}", facts, best.facts))
    console.print(NOTE)


def listing(title: str, chip: Chip, found: Sequence[Any], best: Any) -> Table:
    """A line a point."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("mesh", "rows", "micro", "remat", "HBM, GiB", "step, s", "tokens/s", "MFU, %", "bound"):
        table.add_column(name, justify="left" if name in ("mesh", "remat", "bound") else "right")
    for f in found:
        p, x = f.point, f.facts
        start = (f"{p['data']} x {p['fsdp']} x {p['tensor']}", str(p["rows"]), str(p["microbatches"]), p["remat"])
        if not f.fits:
            needs = "" if f.why else _gib(f.needs).removesuffix(" GiB")
            table.add_row(*start, needs, "", "", "", f.why or f"does not fit {_gib(chip.hbm)}")
            continue
        numbers = (f"{x['seconds']['step']:.3f}", f"{x['tokens_per_second']:,.0f}", f"{100 * x['mfu']:.1f}")
        table.add_row(
            *start, f"{f.needs / GIB:.2f}", *numbers, x["bound"], style="bold" if best and f.key == best.key else None
        )
    return table


def detail(title: str, facts: Mapping[str, Any], x: Mapping[str, Any]) -> Table:
    """Everything about one point."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), show_header=False
    )
    hbm, seconds = x["hbm"], x["seconds"]
    table.add_row("HBM a chip", f"{_gib(hbm['peak'])} of {_gib(hbm['chip'])}")
    table.add_row("  arguments, temporaries", f"{_gib(hbm['arguments'])}, {_gib(hbm['temporaries'])}")
    table.add_row("FLOPs a chip", f"{x['flops_per_chip'] / 1e12:,.1f} T")
    table.add_row("bytes a chip", f"{x['bytes_per_chip'] / 1e9:,.1f} GB")
    for kind, many in x["collectives"].items():
        table.add_row(f"  {kind}", f"{many['bytes'] / 1e9:,.2f} GB in {many['count']:,}")
    table.add_row("time", _time(seconds["step"]))
    for part in PARTS:
        if part in seconds:
            waited = " waited for" if part == "communication" else ""
            table.add_row(
                f"  {part}", f"{_time(seconds[part])}{waited} ({100 * seconds[part] / seconds['step']:.0f} %)"
            )
    bounds = ", ".join(f"{name} {_time(value)}" for name, value in x["bounds"].items())
    table.add_row("bounds", f"{bounds}: {x['bound']}")
    table.add_row("MFU", f"{100 * x['mfu']:.1f} %")
    table.add_row("tokens/s", f"{x['tokens_per_second']:,.0f}")
    if facts["cost_of_a_million_tokens"] is not None:
        table.add_row("a million tokens", f"{facts['cost_of_a_million_tokens']:.4g} {facts['currency']}".strip())
    if x["loops_of_unknown_length"]:
        table.add_row("loops of unknown length", f"{x['loops_of_unknown_length']}: their bodies count once")
    return table


def _gib(size: float | None) -> str:
    return "? GiB" if size is None else f"{size / GIB:.2f} GiB"


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"
