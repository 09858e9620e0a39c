"""The model card of an exported reward model: what it is, how good it is, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmjax import jsonl
from rmjax.data.chat import DATE, raw_text
from rmjax.evaluation.pairwise import Accuracy
from rmjax.evaluation.summary import Row
from rmjax.jobs.reward import origin_of
from rmjax.models import head_file, hf
from rmjax.models.head_file import ExactHead


def write(path: Path, found: Mapping[str, Accuracy | Row], *, run: Mapping[str, Any], data: str = "") -> None:
    """Writes README.md into an exported directory.

    Args:
        found: accuracies on held-out pairs, this model's first; empty where nothing was measured.
        run: run.json.
        data: the file of the held-out pairs.
    """
    exact = head_file.read(path) if hf.has_exact_head(path) else None
    with jsonl.replacing(path / "README.md") as file:
        file.write(card(origin_of(path), exact, found, run=run, data=data).encode())


def card(
    origin: Mapping[str, Any],
    exact: ExactHead | None,
    found: Mapping[str, Accuracy | Row],
    *,
    run: Mapping[str, Any],
    data: str,
) -> str:
    """The text."""
    contract, versions = run["contract"], run["versions"]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, rmjax]
---
# Reward model

A scalar reward model: the higher the number, the better the answer. Only differences between answers to one prompt mean
something.

{chr(10).join(f"- {line}" for line in facts(origin, exact))}
- rmjax {versions["rmjax"]}, jax {versions["jax"]}

{accuracies(found, data)}{"" if exact is None else two_heads(exact)}## Use

`python -m rmjax.launch score --model.path THIS_DIRECTORY --data.path pairs.jsonl`, or
`transformers.AutoModelForSequenceClassification.from_pretrained(THIS_DIRECTORY)`: one label, whose raw logit is the
reward{"" if exact is None else " of the linear head"}. {reads(contract)}
"""


def facts(origin: Mapping[str, Any], exact: ExactHead | None) -> list[str]:
    """What the model was made from, as far as it is known."""
    out = [f"base model: `{origin['base']}`" if "base" in origin else "base model: not recorded"]
    if "adapter" in origin:
        out.append(f"a LoRA adapter is added to it: `{origin['adapter']}`")
    if "quantise" in origin:
        out.append(f"its matrices were rounded to {origin['quantise']}")
    if origin.get("data") and "labels" in origin:
        files = ", ".join(f"`{path}`" for path in origin["data"])
        out.append(f"trained on: {files}, {origin['labels']:,} labelled pairs, seed {origin.get('seed', 0)}")
    if "method" in origin:
        where = ", a head on the frozen base model" if origin.get("trunk") == "frozen" else ""
        lora = f", adapters of rank {origin['rank']} upon it, added to its matrices" if "rank" in origin else ""
        out.append(f"method: {origin['method']}{where}{lora}")
    if exact is not None:
        out.append(f"head: {type(exact.head).__name__}, on {', '.join(exact.pool)} of the hidden states")
    return out


def accuracies(found: Mapping[str, Accuracy | Row], data: str) -> str:
    """A table, or that there is none."""
    if not found:
        return "Its accuracy was not measured when it was exported.\n\n"
    line = lambda name, a: (
        f"| {name} | {100 * a.accuracy:.1f} | {100 * a.ci95[0]:.1f} to {100 * a.ci95[1]:.1f} | {a.n:,} |"
    )
    table = "\n".join(line(name, a) for name, a in found.items())
    where = f" of `{data}`" if data else ""
    return f"""Accuracy on held-out pairs{where}, beside what needs no model:

| | accuracy, % | 95 % interval | pairs |
|---|---|---|---|
{table}

"""


def two_heads(exact: ExactHead) -> str:
    """What each reader of the directory gets."""
    gap, changed = exact.nearest, 100 * exact.nearest["order"]
    worth = (
        ""
        if gap["useful"]
        else f" **Of little use**: it explains {100 * max(gap['explained'], 0):.0f} % of the exact differences."
    )
    return f"""## Two heads

transformers has no class for this model's head. rmjax reads the exact one from `{head_file.TENSORS}` and
`{head_file.JSON}`; transformers reads the **nearest linear head** on `{gap["pool"][0]}`, which gives other rewards.
Cross-validated over {gap["pairs"]:,} pairs (each scored by a linear head that was not fitted to pairs of its prompt),
score differences within a pair are off by {gap["rms"]:.2g} (RMS; the exact ones are {gap["exact_rms"]:.2g}) and by
{gap["max"]:.2g} at most; the order of {changed:.1f} % of the pairs changes.{worth}

"""


def reads(contract: Mapping[str, Any]) -> str:
    """What it reads."""
    return text_pair(contract) if contract["template"] == "pair" else one_text(contract)


def one_text(contract: Mapping[str, Any]) -> str:
    """What a decoder reads, for its card."""
    asked = '[{"role": "user", "content": prompt}]'
    text = (
        f'tokenizer.apply_chat_template({asked}, tokenize=False, add_generation_prompt=True, date_string="{DATE}")'
        if contract["template"] == "chat"
        else repr(raw_text([{"role": "user", "content": "PROMPT"}])).replace("PROMPT", "' + prompt + '")
    )
    bos, end = contract["bos"], contract["end"]
    first = "start" if bos is None else f"(start if start[:1] == [{bos}] else [{bos}, *start])"
    return f"""It reads prompt and answer,
tokenised apart, in the "{contract["template"]}" template, with the end token {end} last:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("THIS_DIRECTORY")
model = AutoModelForSequenceClassification.from_pretrained("THIS_DIRECTORY").eval()
ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
start = ids({text})
with torch.no_grad():
    print(model(torch.tensor([[*{first}, *ids(answer), {end}]])).logits.item())
```"""


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
