"""What the strength job shows: a table and the first suspicious labels in the terminal, report.html."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.markup import escape
from rich.table import Table

from rmjax.evaluation import report
from rmjax.evaluation.figures import MUTED, RIGHT, WRONG, draw
from rmjax.records import Preference
from rmjax.refine import strength
from rmjax.refine.treatments import is_flipped
from rmjax.statistics import wilson

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SHOWN = 20  # suspicious labels on the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strengths:
    """What the job found."""

    found: Sequence[Preference]  # with their strengths
    treated: Sequence[Preference]  # the same in the same order
    how: str  # the ensemble, in words
    file: str  # where the pairs are from
    wrong: Bool[np.ndarray, " n"] | None = None  # labels known to be wrong; None where nothing is known

    @property
    def mean(self) -> Float[np.ndarray, " n"]:
        """The strengths."""
        return strength.means(self.found)

    def facts(self) -> dict[str, Any]:
        """The figures of summary.json; edits are the treatment's alone, not what the pairs came with."""
        mean, std = self.mean, strength.stds(self.found)
        agree = float(np.sum(mean > 0) + 0.5 * np.sum(mean == 0))
        pairs = list(zip(self.found, self.treated, strict=True))
        margins = [after.margin for before, after in pairs if before.margin is None and after.margin is not None]
        return {
            "pairs": self.file,
            "n": len(mean),
            "agreement": agree / len(mean),
            "agreement_ci95": list(wilson(agree, len(mean))),
            "below_zero": int(np.sum(mean < 0)),
            "std": float(std.mean()),
            "quantiles": {f"{q:g}": float(np.quantile(mean, q)) for q in QUANTILES},
            "bands": [dataclasses.asdict(b) for b in strength.bands(mean, std)],
            "flipped": sum(turned_around(*p) for p in pairs),
            "smoothed": sum(made_soft(*p) for p in pairs),
            "margins": [min(margins), max(margins)] if margins else None,
            **({} if self.wrong is None else {"auroc": strength.auroc(mean, self.wrong)}),
            **({} if self.wrong is None else {"known_wrong": int(self.wrong.sum())}),
        }

    def edits(self) -> dict[str, str]:
        """What the treatment did, in words."""
        facts = self.facts()
        out = {
            "labels turned around": f"{facts['flipped']:,} of {facts['n']:,}",
            "labels made soft": f"{facts['smoothed']:,}",
            "margins": "none" if facts["margins"] is None else "{:+.2f} to {:+.2f}".format(*facts["margins"]),
        }
        if self.wrong is not None:
            turned = np.array([turned_around(*p) for p in zip(self.found, self.treated, strict=True)])
            right = int(np.sum(turned & self.wrong))
            out["labels turned around that are known to be wrong"] = f"{right:,} of {facts['known_wrong']:,} known"
        return out


def turned_around(before: Preference, after: Preference) -> bool:
    """Whether the treatment flipped a label."""
    return is_flipped(after) and not is_flipped(before)


def made_soft(before: Preference, after: Preference) -> bool:
    """Whether the treatment smoothed a label."""
    return after.prob_chosen is not None and before.prob_chosen is None


def table(found: Strengths, *, title: str) -> Table:
    """The figures for the terminal."""
    facts = found.facts()
    low, high = facts["agreement_ci95"]
    out = Table(title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    out.add_column("strength of preference")
    out.add_column("", justify="right")
    out.add_row("pairs", f"{facts['n']:,}")
    out.add_row("labels that the ensemble agrees with", f"{_pct(facts['agreement'])} % ({_pct(low)} to {_pct(high)})")
    quantiles = facts["quantiles"]
    out.add_row("strength: 5 %, median, 95 %", "  ".join(f"{quantiles[q]:+.2f}" for q in ("0.05", "0.5", "0.95")))
    out.add_row("spread over members", f"{facts['std']:.2f}")
    if "auroc" in facts:
        out.add_row(f"AUROC of {facts['known_wrong']:,} labels known to be wrong", f"{facts['auroc']:.3f}")
    for what, value in found.edits().items():
        out.add_row(what, value)
    return out


def suspicious_table(found: Strengths, *, count: int = 5) -> Table:
    """The labels to look at first, by id and the beginning of the prompt."""
    title = "labels to look at first"
    out = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    out.add_column("strength", justify="right", no_wrap=True)
    out.add_column("id", overflow="fold")
    out.add_column("prompt")
    for p in _doubtful(found.found, count):
        text = textwrap.shorten(p.prompt[-1].content, 60, placeholder="…") or p.prompt[-1].content[:60]
        out.add_row(f"{strength.column(p)['mean']:+.2f}", escape(p.id), escape(text))
    return out


def write(path: Path, found: Strengths, *, run: Mapping[str, Any]) -> None:
    """Renders the page and writes it whole. Raises UserError where it cannot be written."""
    signed = lambda value: f"{value:+.2f}".replace("-", "−")
    mean, std, facts = found.mean, strength.stds(found.found), found.facts()
    low, high = facts["agreement_ci95"]
    page = report.template("strength.html", signed=signed).render(
        lead=f"{facts['n']:,} labels of {found.file}, scored by {found.how}.",
        facts={
            "labels that the ensemble agrees with": f"{_pct(facts['agreement'])} % ({_pct(low)} to {_pct(high)})",
            "labels below strength 0": f"{facts['below_zero']:,}",
            **({"AUROC of labels known to be wrong": f"{facts['auroc']:.3f}"} if "auroc" in facts else {}),
            "wall time": report.duration(run["seconds"]),
            "device": report.device(run["device"]),
        },
        quantiles={f"{100 * q:g} %": f"{np.quantile(mean, q):+.2f}".replace("-", "−") for q in QUANTILES},
        distribution=histogram(mean[mean >= 0], mean[mean < 0], ("agrees", "disagrees")),
        overlap=None if found.wrong is None else histogram(mean[~found.wrong], mean[found.wrong], ("right", "wrong")),
        bands=strength.bands(mean, std),
        spread=spread(strength.bands(mean, std)),
        suspicious=[_shown(p, found.treated) for p in _doubtful(found.found, SHOWN)],
        edits=found.edits(),
        run=run,
        settings=report.flatten(run["config"]),
    )
    report.save(path, page)


def histogram(right: Float[np.ndarray, " a"], wrong: Float[np.ndarray, " b"], names: tuple[str, str]) -> Markup:
    """Strengths of two kinds of labels on one axis; 0 is an edge of a bin."""
    both = np.concatenate([right, wrong])
    low, high = np.quantile(both, [0.001, 0.999])  # a few far-out pairs must not squeeze all others into one bin
    width = max(high - low, 1e-9) / 40
    edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        for values, colour, name in ((right, RIGHT, names[0]), (wrong, WRONG, names[1])):
            inside = np.clip(values, edges[0], edges[-1])
            ax.hist(inside, edges, histtype="stepfilled", color=colour, alpha=0.22, linewidth=0)
            ax.hist(inside, edges, histtype="step", color=colour, linewidth=1.4, label=f"{name} ({len(values):,})")
        ax.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        ax.set_xlabel("strength")
        ax.set_ylabel("labels")
        ax.legend(frameon=False, fontsize=8.5, handlelength=1.0)

    return draw((4.6, 2.2), paint, f"Histogram of strength: {names[0]} and {names[1]}")


def spread(bands: Sequence[strength.Band]) -> Markup:
    """The members' standard deviation against strength, one dot a band."""

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        ax.plot([b.mean for b in bands], [b.std for b in bands], color=RIGHT, linewidth=1, alpha=0.4)
        for b in bands:
            ax.plot(b.mean, b.std, "o", color=RIGHT if b.mean >= 0 else WRONG, markersize=4.5)
        ax.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_ylim(0, 1.1 * max(b.std for b in bands) or 1)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        ax.set_xlabel("mean strength of the group")
        ax.set_ylabel("spread over members")

    return draw((4.6, 2.2), paint, "Standard deviation over members by strength")


def _doubtful(records: Sequence[Preference], count: int) -> list[Preference]:
    return [p for p in strength.suspicious(records)[:count] if strength.column(p)["mean"] < 0]


def _shown(p: Preference, treated: Sequence[Preference]) -> dict[str, Any]:
    after = next(t for t in treated if t.id == p.id)
    edits = {"turned around": turned_around(p, after), "made soft": made_soft(p, after)}
    turns = [m.content if len(p.prompt) == 1 else f"{m.role}: {m.content}" for m in p.prompt]
    return {
        "id": p.id,
        "mean": strength.column(p)["mean"],
        "std": strength.column(p)["std"],
        "edit": ", ".join(name for name, done in edits.items() if done),
        "prompt": "\n\n".join(turns),
        "chosen": p.chosen,
        "rejected": p.rejected,
    }


def _pct(share: float) -> str:
    return report.percent(share)
