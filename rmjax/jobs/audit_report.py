"""What the audit job shows: report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmjax.evaluation import report
from rmjax.evaluation.style_leak import StyleLeak, edited
from rmjax.judging.prompts import transcript
from rmjax.judging.votes import ItemVerdict
from rmjax.records import Preference
from rmjax.refine.audit import Audit, aspects_of
from rmjax.refine.conditional import direction_of

SHOWN = 20  # doubted pairs on the page


def write(
    path: Path,
    audit: Audit,
    leak: StyleLeak,
    doubted: Sequence[tuple[Preference, ItemVerdict]],
    *,
    file: str,
    judge: str,
    run: Mapping[str, Any],
) -> None:
    """Renders the page and writes it whole. Raises UserError where it cannot be written.

    Args:
        doubted: pairs with their verdicts, those that the judge contradicts most first.
    """
    against = [x for x in doubted if x[1].prob_chosen is not None and x[1].prob_chosen < 0.5]
    rate, even = audit.overall.rate, audit.overall.even
    agreement = f"{report.percent(rate.value)} % ({report.percent(rate.low)} to {report.percent(rate.high)})"
    page = report.template("audit.html", pct=report.percent).render(
        lead=f"{rate.n + audit.overall.unparsed:,} synthetic pairs of {file}, judged again by {judge}.",
        facts={
            "labels that the judge agrees with": agreement if rate.n else "not known: nothing could be read",
            "even votes among them, one half each": f"{even:,}",
            "labels that it believes by less than one half": f"{len(against):,}",
            "wall time": report.duration(run["seconds"]),
            "device": report.device(run["device"]),
        },
        rows=audit.rows(),
        axis=report.Axis.around([(a.rate.low, a.rate.high) for _, a in audit.rows() if a.rate.n], 0.5),
        leak=leak.rows(),
        doubted=[shown(*x) for x in against[:SHOWN]],
        run=run,
        settings=report.flatten(run["config"]),
    )
    report.save(path, page)


def shown(p: Preference, verdict: ItemVerdict) -> dict[str, str]:
    """A pair to read."""
    return {
        "id": p.id,
        "belief": report.percent(verdict.prob_chosen, 0),
        "votes": f"{verdict.chosen} : {verdict.rejected}",
        "direction": direction_of(p),
        "aspects": ", ".join(aspects_of(p)),
        "edited": edited(p),
        "prompt": transcript(p.prompt),
        "chosen": p.chosen,
        "rejected": p.rejected,
    }
