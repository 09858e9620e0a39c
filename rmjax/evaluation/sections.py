"""What the report shows, as plain data: the pipeline fills it from the files of a run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from rmjax.evaluation.calibration import Calibration
from rmjax.evaluation.pairwise import Accuracy, Comparison
from rmjax.evaluation.summary import Row
from rmjax.records import Judgment, Preference, Slot
from rmjax.refine.levels import Graded
from rmjax.refine.table import LEVELS, Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grades:
    """What refinement made of the judgments of one round."""

    right: Sequence[float]  # score of each judgment whose verdict was right
    wrong: Sequence[float]
    threshold: float | None = None  # between weak and strong
    score: str = "score"  # what the scores are, e.g. "exp(-PPL / 10), reasoning given the prompt"
    levels: Mapping[str, int] = dataclasses.field(default_factory=dict)  # level -> judgments, strongest accept first
    made: Mapping[str, int | float | str] = dataclasses.field(default_factory=dict)  # pairs, items without pairs, ...

    @classmethod
    def of(cls, graded: Sequence[Graded], made: Table, *, score: str, threshold: float | None) -> Grades:
        """Of a refinement: judgments without a perplexity are in the counts, not in the histogram.

        Args:
            graded: every judgment of the round.
            made: the refinement's own table.
            score: what the scores are, in words.
            threshold: as a number; None where levels play no part.
        """
        known = [g for g in graded if g.perplexity is not None]
        facts = {
            "labelled pairs": made.items,
            "judgments": made.judgments,
            "of them from retries": made.retried or None,
            "of them from hints": made.hinted or None,
            "training pairs": made.pairs,
            "labels with a pair": made.usable,
            **{f"labels without: {reason}": n for reason, n in made.without.items()},
            "spread of weights, sd / mean": made.weight_spread,
            "AUC of low perplexity for right": made.auc,
        }
        return cls(
            right=[g.score for g in known if g.judgment.correct],
            wrong=[g.score for g in known if not g.judgment.correct],
            threshold=threshold,
            score=score,
            levels={LEVELS[name]: made.levels[name] for name in ("SA", "WA", "WR", "SR", "unparsed")},
            made={name: value for name, value in facts.items() if value is not None},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A judgment to read, with the pair that it judges."""

    item: str
    question: str
    answers: Mapping[Slot, str]
    chosen: Slot  # the slot of the answer that the label prefers
    text: str  # as generated
    verdict: Literal["A", "B", "tie"] | None
    title: str = ""  # who judged
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # grade, level, perplexity, ... as shown

    @classmethod
    def of(cls, item: Preference, judgment: Judgment, *, title: str = "", **facts: str | float | None) -> Reading:
        """The reading of a judgment; facts that are None are left out, and p(A) is added where it is known."""
        texts = (item.chosen, item.rejected) if judgment.slot == "A" else (item.rejected, item.chosen)
        shown = {"p(A)": judgment.prob_a, **facts}
        turns = [m.content if len(item.prompt) == 1 else f"{m.role}: {m.content}" for m in item.prompt]
        return cls(
            item=item.id,
            question="\n\n".join(turns),
            answers={"A": texts[0], "B": texts[1]},
            chosen=judgment.slot,
            text=judgment.text,
            verdict=judgment.verdict,
            title=title,
            facts={k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in shown.items() if v is not None},
        )

    @classmethod
    def graded(cls, item: Preference, g: Graded, *, title: str = "") -> Reading:
        """The reading of a judgment that refinement has graded."""
        facts = {"level": LEVELS[g.level], "grade": g.grade, "perplexity": g.perplexity}
        return cls.of(item, g.judgment, title=title, **facts)

    @property
    def outcome(self) -> Literal["right", "wrong", "tie", "unparsed"]:
        """What the verdict is against the label."""
        if self.verdict is None:
            return "unparsed"
        return "tie" if self.verdict == "tie" else "right" if self.verdict == self.chosen else "wrong"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one stage took."""

    stage: str
    seconds: float
    labels: int | None = None  # labelled pairs that it read
    tokens: int | None = None  # that it generated or trained on
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """A job's own section, before all others."""

    id: str  # its anchor
    title: str
    note: str  # how to read it
    body: Markup  # figures (`figures.draw`) and tables, as HTML


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. Empty parts are left out, and the page says which."""

    title: str
    testbed: str  # "controlled world", "real data", or whose pairs they are
    lead: str = ""  # a sentence or two: what was run on what
    panels: Sequence[Panel] = ()
    rows: Sequence[Row] = ()
    baselines: Mapping[str, Accuracy] = dataclasses.field(default_factory=dict)  # trivial ones, by name
    comparisons: Sequence[Comparison] = ()
    subsets: Mapping[str, Mapping[str, Accuracy]] = dataclasses.field(default_factory=dict)  # method -> subset -> ...
    curves: Mapping[str, Sequence[tuple[float, float]]] = dataclasses.field(default_factory=dict)  # "stage/metric"
    grades: Mapping[str, Grades] = dataclasses.field(default_factory=dict)  # by method or round
    calibration: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)  # by method
    readings: Sequence[Reading] = ()
    costs: Sequence[Cost] = ()
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # run.json


def pick(readings: Iterable[Reading], *, each: int = 4) -> list[Reading]:
    """The first `each` readings of every outcome, no item twice in one outcome, in their order."""
    taken: dict[str, set[str]] = {}
    out = []
    for reading in readings:
        items = taken.setdefault(reading.outcome, set())
        if len(items) < each and reading.item not in items:
            items.add(reading.item)
            out.append(reading)
    return out
