"""What a trained reward model is worth: summary.json, the tables, the model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from rmjax import jsonl
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.length import length_figures
from rmjax.evaluation.pairwise import Accuracy, ItemScore, accuracy, accuracy_by
from rmjax.evaluation.summary import Row, write_summary
from rmjax.evaluation.tables import accuracy_table
from rmjax.jobs.judge import without_nan
from rmjax.jobs.score_tables import calibration_lines, length_table
from rmjax.jobs.workdir import Workdir
from rmjax.records import Preference

console = Console()


def conclude(
    work: Workdir,
    train: Sequence[Preference],
    held: Sequence[Preference],
    scores: Sequence[ItemScore],
    *,
    base: str,
    data: str,
    seed: int,
    run: Mapping[str, Any],
) -> None:
    """Writes summary.json and the export's README.md, and prints the tables."""
    seconds = (work.done("train") or {}).get("seconds", 0.0)
    row = Row.of(accuracy(scores), method="reward model", labels=len(train), seed=seed, seconds=seconds)
    baselines = {name: accuracy(s) for name, s in trivial(held, train).items()}
    sure, lengths = calibration([s.prob_chosen for s in scores], seed=seed), length_figures(held, scores, seed=seed)
    facts = {
        "baselines": {name: dataclasses.asdict(a) for name, a in baselines.items()},
        "subsets": {name: dataclasses.asdict(a) for name, a in accuracy_by(scores, "subset").items()},
        "calibration": dataclasses.asdict(sure),
        "length": dataclasses.asdict(lengths),
        "testbed": "real data",
    }
    write_summary(work / "summary.json", [row], **without_nan(facts))
    text = card(row, baselines, base=base, data=data, run=run)
    with jsonl.replacing(work / "export" / "README.md") as file:
        file.write(text.encode())
    console.print(accuracy_table([row], baselines, title=f"{len(held):,} held-out pairs"))
    console.print(length_table({"reward model": lengths}))
    console.print(calibration_lines({"reward model": sure}))
    console.print(f"model: [bold]{work / 'export'}[/]   held out: {work / 'held_out.jsonl'}   {work / 'summary.json'}")


def card(row: Row, baselines: Mapping[str, Accuracy], *, base: str, data: str, run: Mapping[str, Any]) -> str:
    """The model card: what it is, how good it is, how to use it."""
    line = lambda name, a: (
        f"| {name} | {100 * a.accuracy:.1f} | {100 * a.ci95[0]:.1f} to {100 * a.ci95[1]:.1f} | {a.n:,} |"
    )
    table = "\n".join(line(name, a) for name, a in {"this model": row, **baselines}.items())
    contract, ours, jax = run["contract"], run["versions"]["rmjax"], run["versions"]["jax"]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, rmjax]
---
# Reward model

A scalar reward model: the higher the number, the better the answer. Only differences between answers to one prompt mean
something.

- base model: `{base}`
- trained on: `{data}`, {row.labels:,} labelled pairs, seed {row.seed}
- rmjax {ours}, jax {jax}

Accuracy on held-out pairs, beside what needs no model:

| | accuracy, % | 95 % interval | pairs |
|---|---|---|---|
{table}

## Use

`python -m rmjax.launch score --model.path THIS_DIRECTORY --data.path pairs.jsonl`, or
`transformers.AutoModelForSequenceClassification.from_pretrained(THIS_DIRECTORY)`: one label, whose raw logit is the
reward. {text_pair(contract) if contract["template"] == "pair" else one_text(contract)}
"""


def one_text(contract: Mapping[str, Any]) -> str:
    """What a decoder reads, for its card."""
    return (
        f'The text is the conversation in the "{contract["template"]}" template of `contract.json`, with the answer\'s '
        "end token."
    )


def text_pair(contract: Mapping[str, Any]) -> str:
    """What an encoder reads, for its card."""
    return f"""It reads `tokenizer(prompt, answer)`, a pair of texts. In a
pipeline, `function_to_apply="none"` is needed; without it a sigmoid is put over the reward:

```python
from transformers import pipeline
reward = pipeline("text-classification", model="THIS_DIRECTORY", function_to_apply="none")
print(reward({{"text": prompt, "text_pair": answer}})["score"])
```

- A lone user message is the prompt as it is. A conversation becomes one text: the system message, then each turn under
  `User:` or `Assistant:` on a line of its own, an empty line between turns, and `Assistant:` with a line end last.
- `score` cuts a pair of more than {contract["length"]} tokens: first the front of the prompt, down to a quarter of that
  length, then the end of the answer. The tokenizer's own `truncation` cuts elsewhere: other rewards for such pairs."""
