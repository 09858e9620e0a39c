"""What a study of self-training says: rows of its summary, labels given, labelling functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rmjax.evaluation.listing import Listing
from rmjax.evaluation.pairwise import Accuracy
from rmjax.evaluation.summary import Row
from rmjax.jobs.curve_report import BASELINE
from rmjax.methods.self_training import Ser, Ssrm, Weak

SEED = "seed"  # the seed labels alone
TITLES = {SEED: BASELINE, "ser": Ser.title, "ssrm": Ssrm.title, "weak": Weak.title}
TRUE = ", true labels"


def rows(lines: Sequence[Mapping[str, Any]], *, seed: int) -> list[Row]:
    """Lines of rows.jsonl as rows of the summary; of a rule also those of the same pairs with their true labels."""
    result = lambda x: Accuracy.of(x["accuracy"], x["n"], x["ties"])
    out = []
    for line in lines:
        for draw, x in enumerate(line["runs"]):
            title, more = TITLES[line["rule"]], {k: x[k] for k in ("given", "right", "rest") if k in x}
            place = {"labels": line["labels"], "draw": draw, "seed": seed, "seconds": line["seconds"]}
            out.append(Row.of(result(x), method=title, **place, **more))
            if "true" in x:
                out.append(Row.of(result(x["true"]), method=title + TRUE, **place))
    return out


def labels_given(lines: Sequence[Mapping[str, Any]]) -> Listing:
    """Per rule, number of seed labels and round: the share of the rest that has a label, and how many are right."""
    cells = []
    for line in lines:
        for t in range(len(line["runs"][0].get("given", ()))):
            share = np.mean([x["given"][t] / x["rest"] for x in line["runs"]])
            right = [x["right"][t] / x["given"][t] for x in line["runs"] if x["given"][t]]
            percent = f"{100 * np.mean(right):.1f}" if right else "none given"
            cells.append((TITLES[line["rule"]], f"{line['labels']:,}", str(t + 1), f"{100 * share:.1f}", percent))
    names = ("rule", "labels", "round", "given, %", "right, %")
    note = "Of the pairs without a seed label; means over label draws, for the right ones over those that gave any."
    return Listing(id="given", title="Labels given", names=names, lines=cells, note=note)


def labelling_functions(facts: Mapping[str, Mapping[str, Any]]) -> Listing:
    """Per function: votes, its accuracy, and what the label model took it for.

    Args:
        facts: name -> votes, accuracy_true (None: no vote), accuracy_found by number of seed labels.
    """
    share = lambda value: "" if value is None else f"{100 * value:.1f}"
    counts = next(iter(facts.values()))["accuracy_found"]
    cells = [
        (name, f"{x['votes']:,}", share(x["accuracy_true"]), *map(share, x["accuracy_found"].values()))
        for name, x in facts.items()
    ]
    names = ("labelling function", "votes", "right, %", *(f"found, {int(n):,}" for n in counts))
    note = (
        "On all training pairs. Found: the accuracy that the label model takes the function for, mean over label "
        "draws, by number of seed labels; it sees these only where --weak.seeded is set. Below 50 the function counts "
        "the other way round."
    )
    return Listing(id="functions", title="Labelling functions", names=names, lines=cells, note=note)
