"""Training a scalar reward model (Bradley-Terry): our packed steps against trl's RewardTrainer, same weights and order.

    python benchmarks/reward.py --data pairs.jsonl [--backbone llama|encoder] [--peer none]

The pairs of a file (so that lengths are real) as random ids, one a word, to a random Llama of 8 layers and width 256,
or to a random encoder of MiniLM's size, in float32. trl runs every answer as a padded sequence, `batch` pairs an AdamW
update: its own collator and `compute_loss`, backward, torch's AdamW with the same settings. Ours packs pairs into rows
and computes a conversation that both answers share once (an encoder sees both ways, so there is nothing to share;
packing saves the padding).

Two things are measured. Agreement: updates on exactly trl's batches, in its order. Speed: the same pairs as the trainer
packs them, rows filled first fit, one row a device and update, which is about as many pairs an update.

The last line is a JSON object. `ours` and `peer` are pairs per second, `ratio` is ours / peer; `floor_ratio` is our
time / the floor's, which is the least arithmetic at the rate of a large matrix product measured here. `agree`: the
losses of all steps are trl's to 1e-3, each after the updates before it. Both sides ran once before they were timed.
`load_average` much above 0: the figures say more about the machine than about either side.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from rmjax.data import packing
from rmjax.data.rows import Group, Rows, RowShape
from rmjax.data.sources import read_preferences
from rmjax.jobs.devices import Devices, split_cpu
from rmjax.models import hf
from rmjax.models.config import DecoderConfig, EncoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.training.flops import measured_peak, train_flops
from rmjax.training.loop import place_rows
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import TrainState, current_mesh, new_state
from rmjax.training.step import train_step

VOCAB, TOLERANCE = 4096, 1e-3
LLAMA = DecoderConfig(vocab=VOCAB, layers=8, embed=256, heads=4, kv_heads=4, head_dim=64, mlp=704, tied=False)
MINILM = EncoderConfig(vocab=VOCAB, layers=6, embed=384, heads=12, mlp=1536)
OPTIMIZER = Optimizer(learning_rate=1e-4, schedule="constant", weight_decay=0.0, clip=1.0)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    data: str = ""  # a file of labelled pairs, for its lengths
    backbone: Literal["llama", "encoder"] = "llama"
    peer: Literal["trl", "none"] = "trl"
    steps: int = 8  # trl's updates
    batch: int = 8  # pairs of one (trl's default)
    longest: int = 512  # tokens of prompt and answer; longer pairs are left out on both sides


def words(text: str) -> list[int]:
    """One id a word or sign; the last two ids of the vocabulary stay free."""
    return [zlib.crc32(w.encode()) % (VOCAB - 2) for w in re.findall(r"\w+|[^\w\s]", text)]


def examples(b: Benchmark) -> list[list[Group]]:
    """The file's pairs in its order, in batches; an answer ends with the vocabulary's last id."""
    groups = []
    for p in read_preferences(b.data, invalid="drop", empty="drop", identical="drop", duplicate="drop").records:
        prompt = words(" ".join(m.content for m in p.prompt))
        answers = [[*words(a), VOCAB - 1] for a in (p.chosen, p.rejected)]
        if len(prompt) + max(map(len, answers)) <= b.longest:
            groups.append(Group(id=p.id, prompt=prompt, completions=answers, pairs=[(0, 1)]))
    need = b.steps * b.batch
    if len(groups) < need:
        raise SystemExit(f"{b.data}: {len(groups)} pairs of at most {b.longest} tokens, {need} are needed")
    return [groups[i : i + b.batch] for i in range(0, need, b.batch)]


class Ours:
    """AdamW updates on batches of packed rows of one length."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._step = train_step(model, Pairwise(score=Scalar()), OPTIMIZER)

    def run(self, params: Any, batches: Sequence[Rows]) -> tuple[list[float], float]:
        """The updates' losses (each before its update) and the seconds of all of them."""
        state: TrainState = new_state(self._model, transform(OPTIMIZER.direction, self._model), params)
        jax.block_until_ready(state.params)
        losses, start = [], time.perf_counter()
        for rows in batches:
            state, metrics = self._step(state, rows, OPTIMIZER.learning_rate)
            losses.append(metrics["loss"])
        jax.block_until_ready(state.params)
        return [float(loss.value()) for loss in losses], time.perf_counter() - start


def aligned(batches: Sequence[Sequence[Group]], shape: RowShape, share: bool) -> list[Rows]:
    """Each batch in rows of its own, filled up with empty ones to as many as the fullest batch has."""
    packed = [packing.pack(batch, shape, share=share).rows for batch in batches]
    most = max(map(len, packed))
    most += -most % devices()
    return [_placed(rows, most, shape) for rows in packed]


def packed(groups: Sequence[Group], shape: RowShape, share: bool) -> list[Rows]:
    """All groups first fit, one row a device and batch."""
    rows = packing.pack(groups, shape, share=share).rows
    return [_placed(rows[i : i + devices()], devices(), shape) for i in range(0, len(rows), devices())]


def _placed(rows: Sequence[Rows], count: int, shape: RowShape) -> Rows:
    return place_rows(packing.stack([*rows, *[packing.empty(shape)] * (count - len(rows))]), current_mesh())


def devices() -> int:
    """How many the rows of a batch lie over."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.size


class Peer:
    """trl's RewardTrainer on the exported model."""

    def __init__(self, folder: Path, b: Benchmark, batches: Sequence[Sequence[Group]]) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import datasets
        import tokenizers
        import torch
        import transformers
        import trl

        for module in (datasets, transformers):
            module.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        logging.getLogger("trl").setLevel(logging.ERROR)
        torch.set_num_threads(os.cpu_count() or 1)
        core = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
        last, pad = f"w{VOCAB - 1}", f"w{VOCAB - 2}"
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token=last, pad_token=pad)
        rows = [
            {"chosen_ids": [*g.prompt, *g.completions[0]], "rejected_ids": [*g.prompt, *g.completions[1]]}
            for batch in batches
            for g in batch
        ]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32)
        self._trainer = trl.RewardTrainer(
            model,
            trl.RewardConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=b.batch,
                gradient_checkpointing=False,
                max_length=None,
                disable_dropout=True,
                bf16=False,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        self._model = self._trainer.model
        self._model.train()
        split = [rows[i : i + b.batch] for i in range(0, len(rows), b.batch)]
        self._batches = [self._trainer._prepare_inputs(self._trainer.data_collator(part)) for part in split]
        if b.backbone == "encoder":  # trl's collator leaves them out: prompt 0, answer 1
            for inputs, batch in zip(self._batches, batches, strict=True):
                types = torch.zeros_like(inputs["input_ids"])
                for k, (g, i) in enumerate((g, i) for i in (0, 1) for g in batch):
                    types[k, len(g.prompt) : len(g.prompt) + len(g.completions[i])] = 1
                inputs["token_type_ids"] = types
        self._first = {name: value.clone() for name, value in self._model.state_dict().items()}

    def run(self) -> tuple[list[float], float]:
        """The steps' losses and the seconds of all of them, from the first weights."""
        import torch

        self._model.load_state_dict(self._first)
        o = OPTIMIZER
        adam = torch.optim.AdamW(
            self._model.parameters(), lr=o.learning_rate, betas=(o.b1, o.b2), eps=o.eps, weight_decay=o.weight_decay
        )
        losses, start = [], time.perf_counter()
        for inputs in self._batches:
            loss = self._trainer.compute_loss(self._model, dict(inputs))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), o.clip)
            adam.step()
            adam.zero_grad()
            losses.append(float(loss.detach()))
        return losses, time.perf_counter() - start


def measure(b: Benchmark, config: Any = None) -> dict[str, Any]:
    """Both sides, one after the other, ours over all devices."""
    load = os.getloadavg()[0]
    with Devices().use():
        return {**sides(b, config or {"llama": LLAMA, "encoder": MINILM}[b.backbone]), "load_average": round(load, 2)}


def sides(b: Benchmark, config: Any) -> dict[str, Any]:
    """`measure`, on whatever mesh is set."""
    # Of an encoder, transformers' classifiers read the pooler.
    model = Model.of(config, Linear(), None if isinstance(config, DecoderConfig) else ("pooler",))
    params = model.init(jax.random.key(0), mesh=current_mesh())
    batches = examples(b)
    groups = [g for batch in batches for g in batch]
    shape = packing.fit(groups, share=model.share)
    rows, own = packed(groups, shape, model.share), Ours(model)
    losses, _ = own.run(params, aligned(batches, shape, model.share))
    own.run(params, rows)  # compiles, and touches its memory for the first time
    _, seconds = own.run(params, rows)
    flops = sum(train_flops(model, jax.tree.map(np.asarray, r)) for r in rows)
    rate = measured_peak(config.dtype) * devices()
    out: dict[str, Any] = {"name": f"reward_{b.backbone}", "ours": round(len(groups) / seconds, 3), "peer": None}
    out |= {"ratio": None, "floor_ratio": round(seconds * rate / flops, 3), "agree": None}
    out |= {"pairs": len(groups), "seconds": round(seconds, 4), "updates": len(rows), "row_length": shape.length}
    out |= {"floor_pairs_per_s": round(len(groups) * rate / flops, 2), "matmul_gflop_per_s": round(rate / 1e9, 1)}
    out["row_fill"] = round(float(np.mean([np.mean(np.asarray(r.group) >= 0) for r in rows])), 3)
    out["loss"] = losses
    tokens = [[len(g.prompt) + len(c) for c in g.completions] for g in groups]
    out["tokens_a_pair"] = round(float(np.mean([sum(t) for t in tokens])), 1)
    if b.peer == "trl":
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            hf.save(folder / "model", model, params, eos=[VOCAB - 1], pad=VOCAB - 2)
            peer = Peer(folder, b, batches)
            theirs, _ = peer.run()
            _, theirs_seconds = peer.run()
        apart = float(np.max(np.abs(np.subtract(losses, theirs))))
        out |= {"peer": round(len(groups) / theirs_seconds, 3), "ratio": round(theirs_seconds / seconds, 2)}
        out |= {"agree": apart < TOLERANCE, "loss_difference": apart, "tolerance": TOLERANCE, "peer_loss": theirs}
    return out


def main() -> None:
    b = tyro.cli(Benchmark)
    split_cpu()
    print(json.dumps(measure(b)))


if __name__ == "__main__":
    main()
