"""summary.json and tables of a proxy run: the ledger, held-out accuracies, the duel with the seed policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rmjax import jsonl
from rmjax.evaluation.pairwise import ItemScore, accuracy, from_scores
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.summary import Row, write_scores, write_summary
from rmjax.evaluation.tables import accuracy_table
from rmjax.jobs.workdir import Workdir
from rmjax.methods.proxy_oracle import Bought
from rmjax.methods.responses import Policy
from rmjax.oracles.blind import swapped
from rmjax.oracles.oracle import Oracle
from rmjax.records import Messages, Pair, Preference
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.statistics import wilson

console = Console()
SCORES = "held.scores.jsonl"


def write_held(folder: Path, held: Sequence[Preference], scores: Sequence[np.ndarray]) -> None:
    """Outcomes of the held-out pairs, by the scores [2] of chosen and rejected."""
    write_scores(folder / SCORES, from_scores(held, np.stack(scores), logistic=True))


def duel(
    before: Policy, after: Policy, prompts: Mapping[str, Messages], sampling: Sampling, oracle: Oracle, seed: int
) -> dict[str, Any]:
    """Greedy answers of the trained and the seed policy, compared blindly; equal texts are a tie that nobody is asked.

    These votes are an evaluation: they are none of the budget's.
    """
    greedy = dataclasses.replace(sampling, temperature=0.0)
    texts = []
    for p in (after, before):
        requests = [Request(id=id, prompt=p.chat.prompt_ids(m)) for id, m in prompts.items()]
        texts.append([r.text for r in Sampler(p.model, p.params, p.chat, greedy, seed=seed).run(requests)])
    pairs, ours = [], []
    for (id, prompt), new, old in zip(prompts.items(), *texts, strict=True):
        if new != old:
            turned = swapped(seed, id, "duel")
            first, second = (old, new) if turned else (new, old)
            pairs.append(Pair(prompt=prompt, first=first, second=second, id=f"held {id}"))
            ours.append("second" if turned else "first")
    votes = oracle.label(pairs)
    told = [(v.choice, mine) for v, mine in zip(votes, ours, strict=True) if v.choice != "unknown"]
    same = len(prompts) - len(pairs)
    wins = sum(1.0 if c == mine else 0.5 * (c == "tie") for c, mine in told) + same / 2
    n = len(told) + same
    return {
        "win_rate": wins / n if n else None,
        "ci95": list(wilson(wins, n)),
        "n": n,
        "same_text": same,
        "unknown": len(votes) - len(told),
        "judged": len(votes),
    }


def conclude(
    work: Workdir, bought: Bought, evaluated: Mapping[str, Any], *, seller: str, seed: int, provenance: Provenance
) -> None:
    """Writes summary.json and run.json, and prints what was bought, given and reached."""
    given = work.done("label")
    labels, useful = len(bought.votes), len(bought.groups)
    ledger = {
        "bought": labels,
        "bought_from": seller,
        "taught_nothing": labels - useful,  # ties and "can't tell"
        "given_by_proxy": given["given"],
        "given_per_bought": given["given"] / labels,
        "too_close": given["close"],
        "not_needed": given["left"],
    }
    rows = []
    for name, stage in (("evaluation model", "evaluator"), ("policy's implicit reward", "dpo")):
        file = work / ("evaluate" if stage == "dpo" else stage) / SCORES
        if file.exists():
            seconds = work.done(stage)["seconds"]
            result = accuracy(jsonl.read(file, ItemScore))
            rows.append(Row.of(result, method=name, labels=labels, seed=seed, seconds=seconds))
    write_summary(work / "summary.json", rows, ledger=ledger, evaluation=dict(evaluated), testbed=f"labels of {seller}")
    provenance.finish()
    table = Table("ledger", "", box=None, padding=(0, 2, 0, 0))
    for name, value in ledger.items():
        table.add_row(name.replace("_", " "), f"{value:,.1f}" if isinstance(value, float) else f"{value}")
    console.print(table)
    if rows:
        console.print(accuracy_table(rows, {}, title=f"{rows[0].n:,} held-out pairs"))
    elif evaluated.get("win_rate") is not None:
        low, high = evaluated["ci95"]
        console.print(
            f"against the seed policy: {100 * evaluated['win_rate']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of "
            f"{evaluated['n']:,} held-out prompts, by the judge"
        )
    console.print(f"policy: [bold]{work / 'dpo' / 'export'}[/]   labels: {work / 'label' / 'labels.jsonl'}")
