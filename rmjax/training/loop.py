"""Training: groups in, parameters out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from rmjax import distributed
from rmjax.bounds import require
from rmjax.data import packing
from rmjax.data.limits import require_context
from rmjax.data.pipeline import Batches, Together, batches
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.models.model import join
from rmjax.objectives.base import Objective
from rmjax.progress import Meter, say
from rmjax.sharding import batch_parts, current_mesh, place_rows
from rmjax.training.checkpoint import FOLDER, Checkpoints
from rmjax.training.compiles import Compiles, Watch
from rmjax.training.flops import measured_peak, work
from rmjax.training.held_out import Evaluation, Unit, prompt, split
from rmjax.training.identity import checksum, describe, fingerprint
from rmjax.training.metrics import Log, Window
from rmjax.training.optimizer import Optimizer, share_of, transform
from rmjax.training.profile import Profile
from rmjax.training.recorder import Recorder
from rmjax.training.state import abstract_state, new_state, restarted
from rmjax.training.step import train_step
from rmjax.training.termination import Termination

LONG = 1e12  # FLOPs of a run from which on its device's peak is worth measuring
SECOND = 1_000_003  # the seed of unlabelled answers is so much above the data's
FREE = ("save_every", "keep", "log_every", "quiet", "peak_flops", "profile")  # fields of `Train` that change no result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How long, with what and which parameters to train.

    freeze: the embeddings and the lowest layers keep every bit; no backward pass goes through them, nothing of theirs
    decays, and the gradient's norm is that of the others. A tied output head is the embedding table: frozen with it.

    head_only: the first updates move the reward head and an encoder's pooler (new or not), and compute no backward pass
    below. Then Adam starts anew for all of them, with moments and count 0, as if a second training began (linear
    probing, then fine-tuning: arXiv:2202.10054): the head's moments would come with a count that is wrong for all
    others. The schedule of the rate goes on, for it counts all updates.

    eval_every: a part of the training data, all groups of a prompt on one side, is evaluated instead of trained on. The
    lowest loss on it says which checkpoint is the best: that one is kept beside the newest, whatever `keep` says.
    """

    optimizer: Optimizer = Optimizer()
    steps: int = 0  # updates; or give epochs
    epochs: int = 0  # visits of every group; the last batch is filled up with empty rows
    batch: int = 16  # packed rows per update, over all devices
    microbatches: int = 1  # pieces that a batch is computed in: less memory, the same gradient
    seed: int = 0  # of the data's order and of dropout's masks
    save_every: int = 0  # updates between checkpoints; the last update has one too; 0: none
    keep: int = 2  # newest checkpoints kept
    eval_every: int = 0  # updates between evaluations on held-out training data; after the last one, too; 0: none
    eval_share: float = 0.1  # share of the training prompts held out for these, by a hash
    select: Literal["last", "best"] = "last"  # which parameters are the result: the last, or the best evaluated
    log_every: int = 10  # updates averaged in a row of metrics.jsonl
    dropout: float = 0.0  # share of the layers' outputs dropped in training; scores never are
    freeze: int = 0  # lowest layers that are not trained, nor are the embeddings then; 0: all is trained
    head_only: float = 0.0  # first updates, of the head and an encoder's pooler; below 1: a share of all, at least one
    pairs_per_group: int | None = None  # pairs drawn anew at every visit of a group; None: all
    length: int = 0  # tokens of a row; 0: what the longest group needs
    peak_flops: float = 0.0  # FLOP/s of one device, for MFU; 0: measured where the run is long enough
    profile: int = 0  # updates traced with XLA's profiler, after the first two of a process; 0: none
    quiet: bool = False  # no progress bar

    def __post_init__(self) -> None:
        require("train.", self, "batch", "microbatches", "log_every", "keep", least=1)
        require("train.", self, "steps", "epochs", "save_every", "length", "peak_flops", "seed", least=0)
        require("train.", self, "freeze", "head_only", "eval_every", "profile", least=0)
        require("train.", self, "eval_share", above=0, below=1)
        require("train.", self, "dropout", least=0, below=1)
        if self.pairs_per_group is not None:
            require("train.", self, "pairs_per_group", least=1)
        if self.batch % self.microbatches:
            raise UserError(f"train.batch={self.batch} does not split into train.microbatches={self.microbatches}")
        if bool(self.steps) == bool(self.epochs):
            raise UserError(
                f"train.steps={self.steps}, train.epochs={self.epochs}: give one of the two, and 0 for the other"
            )
        if self.steps:
            self.alone(self.steps)
        if not self.eval_every and self.eval_share != Train.__dataclass_fields__["eval_share"].default:
            raise UserError(f"train.eval_share={self.eval_share:g}: is for train.eval_every, here 0; leave it out")
        if self.select not in ("last", "best"):
            raise UserError(f"train.select={self.select!r}: not one of last, best")
        if self.select == "best" and not (self.eval_every and self.save_every):
            raise UserError(
                f"train.select=best needs train.eval_every (here {self.eval_every}) and train.save_every (here "
                f"{self.save_every}) above 0: the best parameters come from a checkpoint"
            )

    def alone(self, total: int) -> int:
        """The first updates of `total`, which move the head alone. UserError where none is left for the rest."""
        if not self.head_only:
            return 0
        first = max(1, share_of(self.head_only, total))
        if first >= total:
            raise UserError(
                f"train.head_only={self.head_only:g}: {first} updates of the head alone leave none of {total} for the "
                "rest; give a smaller number or share, or train longer"
            )
        return first

    def check_no_files(self, at: str = "train") -> None:
        """Raises UserError for what a training that keeps no files cannot do; `at` is where the settings stand."""
        for name in ("eval_every", "profile"):
            if value := getattr(self, name):
                raise UserError(f"{at}.{name}={value}: this training keeps no files; set it to 0")

    def check(self, model: Any, groups: Sequence[Group] = ()) -> None:
        """Refuses, before any work is done, what `fit` would refuse for these settings.

        Args:
          groups: what will be trained on, where it is known already.

        Raises:
          UserError: the model has fewer layers than are to be frozen, or no head to train alone; too few updates;
            too few groups to evaluate some of them.
        """
        layers, weights = model.config.layers, model.config.weights
        if weights != "float32" and model.config.lora is None:
            raise UserError(
                f"model field weights={weights}: such parameters cannot be trained, only adapters beside them; give "
                "--lora.rank 16, or leave --model.quantise out"
            )
        if self.freeze > layers:
            raise UserError(f"train.freeze={self.freeze}: the model has {layers} layers; give at most {layers}")
        if self.freeze == layers and model.config.lora is not None and model.head is None:
            raise UserError(
                f"train.freeze={self.freeze}: the model has {layers} layers, so that no adapter would be trained; give "
                f"at most {layers - 1}"
            )
        if self.head_only and model.head is None:
            raise UserError(f"train.head_only={self.head_only}: the model has no reward head; set it to 0")
        if self.eval_every and groups:
            groups, _ = split(groups, self.eval_share)
        if self.head_only and self.epochs and groups:
            self.alone(updates(model, groups, self).total)


def fit(
    model: Any,
    params: Any,
    objective: Objective,
    groups: Sequence[Group],
    train: Train,
    folder: Path | None,
    *,
    name: str,
    contract: Mapping[str, Any] | None = None,
    unlabelled: Sequence[Group] = (),
    pool: Sequence[Group] = (),
    unit: Unit = prompt,
) -> Any:
    """Trains a copy of `params` on groups; returns the new parameters.

    With a folder, metrics.jsonl and TensorBoard events are written to it, and with `train.save_every` checkpoints.
    The same call then continues from the newest one and ends as an unbroken run does, bit for bit on the same mesh;
    SIGTERM saves one and exits with code 0 (without checkpoints it ends the process as ever). The last update's
    checkpoint stays, so that the call costs nothing when it is repeated because its caller was killed before the
    parameters were safe; `checkpoint.remove(folder)` deletes them then.

    Args:
      name: shown beside the progress bar.
      contract: the token contract of the data (`Chat.contract()`), kept with the checkpoints.
      unlabelled: for an objective that wants a batch of them with every update (`objectives/meta.py: unlabelled`).
      pool: what `groups` were drawn from, if they were: rows get the shape that it needs, so that trainings on other
        draws compile nothing again.
      unit: what of a group must not be both trained on and evaluated (`train.eval_every`).

    Raises:
      UserError: data that the objective cannot use, unlabelled answers that it lacks or would ignore, layers or a head
        that the model does not have, a batch that does not split over the devices, a folder that cannot be written or
        holds the checkpoints of another run, or that lacks where evaluations or a trace would go, a loss that is not
        finite.
      SystemExit: 0, after SIGTERM.
    """
    objective.check(groups, model)
    if bool(unlabelled) != getattr(objective, "unlabelled", False):
        raise UserError(
            f"{type(objective).__name__}: {'takes no' if unlabelled else 'needs'} unlabelled answers beside the pairs, "
            f"and {len(unlabelled)} prompts with answers were given"
        )
    train.check(model)
    if folder is None:
        train.check_no_files()
    held, evaluation = [], None
    if train.eval_every:
        groups, held = split(groups, train.eval_share, unit)
        evaluation = Evaluation(model, objective, held, batch=train.batch // train.microbatches)
        say(f"{name}: {len(held)} groups are evaluated every {train.eval_every} updates, {len(groups)} are trained on")
    data = updates(model, groups, train, unlabelled, pool)
    mesh = current_mesh()
    check_mesh(train, mesh)
    head_only = train.alone(data.total)
    whole = model.with_config(frozen=train.freeze)
    first = model.with_config(frozen=model.config.layers + 1) if head_only else whole
    part_of = lambda number: first if number <= head_only else whole  # what update `number` (from 1) moves
    tx_of = functools.partial(transform, train.optimizer.direction)
    steps = {
        part: train_step(part, objective, train.optimizer, train.microbatches, train.dropout) for part in (first, whole)
    }

    checkpoints = resumed = None
    if folder is not None and (train.save_every or distributed.first((folder / FOLDER).exists)):
        settings = _settings(model, params, objective, groups, held, unlabelled, train, contract)
        checkpoints = Checkpoints(folder / FOLDER, settings, keep=train.keep)
        abstract = lambda number: abstract_state(part_of(number), tx_of(part_of(number)))
        resumed = checkpoints.restore(abstract, data)
    base = model.split(params)[1]  # what adapters leave alone: it is neither copied nor saved
    rest = () if base is None else (base,)
    seed = np.uint32(train.seed % 2**32)  # a number of the size that a device takes
    start, state, sums = resumed or (0, new_state(first, tx_of(first), params), None)
    place = functools.partial(place_rows, mesh=mesh)

    with (
        Log(folder if jax.process_index() == 0 else None, start) as log,
        Meter(name, data.total, "steps", start=start, quiet=train.quiet or jax.process_index() > 0) as meter,
        Termination(active=checkpoints is not None) as termination,
        Compiles() as compiles,
        Profile(name, folder, train.profile, start=start, total=data.total) as profile,
        checkpoints or contextlib.nullcontext(),
    ):
        watch = Watch(name, compiles)
        record = Recorder(name, log, meter, compiles, every=train.log_every, total=data.total, window=Window(sums))
        for number in range(start + 1, data.total + 1):
            with record.speed.waiting("input"):
                rows = next(data)
            part = part_of(number)
            if number == head_only + 1 and head_only:
                state = restarted(part, tx_of(part), state)
            load = work(part, rows)
            if folder is not None and number == start + 1:
                record.speed.peak = _peak(model, train, mesh, distributed.agree(load.flops * (data.total - start)))
            rate = train.optimizer.rate(number - 1, data.total)
            with profile.step(number):
                state, metrics = watch(steps[part], number, state, place(rows), rate, seed, *rest)
            record.put(number, rate, metrics, load)
            profile.finish(number, metrics)

            loss = None
            if evaluation is not None and (number % train.eval_every == 0 or number == data.total):
                record.flush()
                with record.speed.waiting("evaluation"):
                    means = evaluation(join(state.params, base), place)
                log.write(number, {f"eval/{key}": value for key, value in means.items()})
                loss = means["loss"]
            stop = termination.asked()
            due = train.save_every and (number % train.save_every == 0 or number == data.total)
            if checkpoints is not None and (stop or due or checkpoints.improves(loss)):
                record.flush()
                with record.speed.waiting("checkpoint"):
                    checkpoints.save(number, state, data, record.window.sums, loss=loss)
            if stop:
                checkpoints.wait()
                say(f"{name}: SIGTERM, saved step {number} in {checkpoints.folder}; the same command continues it")
                raise SystemExit(0)
        record.flush()
    if train.select == "last":
        return join(state.params, base)
    del state  # the best one takes its place in memory
    best = checkpoints.restore_best(abstract)
    say(f"{name}: the result is that of step {checkpoints.best.step}, whose held-out loss is the lowest")
    return join(best.params, base)


def updates(
    model: Any,
    groups: Sequence[Group],
    train: Train,
    unlabelled: Sequence[Group] = (),
    pool: Sequence[Group] = (),
) -> Batches | Together:
    """The batches of a training. Unlabelled answers come in rows of their own length, in an order of their own.

    Raises:
      UserError: a group that is longer than the model or a row can hold.
    """
    require_context(groups, model.context)
    whole = pool or groups
    shape = packing.fit(whole, length=train.length, pairs_per_group=train.pairs_per_group, share=model.share)
    data = batches(
        groups,
        shape,
        batch=train.batch,
        seed=train.seed,
        steps=train.steps,
        epochs=train.epochs,
        pairs_per_group=train.pairs_per_group,
        share=model.share,
    )
    if not unlabelled:
        return data
    require_context(unlabelled, model.context)
    shape = packing.fit(unlabelled, share=model.share)
    # Of its own: where the answers are those of the pairs, an update would else see the same ones twice.
    seed = train.seed + SECOND
    return Together(data, batches(unlabelled, shape, batch=train.batch, seed=seed, steps=data.total, share=model.share))


def _settings(
    model: Any,
    params: Any,
    objective: Any,
    groups: Sequence[Group],
    held: Sequence[Group],
    unlabelled: Sequence[Group],
    train: Train,
    contract: Mapping[str, Any] | None,
) -> dict[str, str]:
    """What makes a run this one: a checkpoint of another is refused."""
    parts = {"model": model.config, "head": model.head, "pool": model.pool, "objective": objective, "train": train}
    parts |= {f"contract.{key}": value for key, value in (contract or {}).items()}
    free = {f"train.{name}" for name in FREE}
    fields = {k: v for at, part in parts.items() for k, v in describe(part, at).items() if k not in free}
    found = {"data": fingerprint(groups), "initial parameters": f"{checksum(params):08x}"}
    if train.freeze or train.head_only:
        found["state"] = "no moments of what is frozen"  # earlier checkpoints had them: other settings, not damage
    more = {"held-out data": held, "unlabelled": unlabelled}
    return {**fields, **found, **{name: fingerprint(them) for name, them in more.items() if them}}


def check_mesh(train: Train, mesh: Mesh | None) -> None:
    """Raises UserError where a batch does not split over the mesh."""
    if mesh is not None:
        devices = batch_parts(mesh)
        if train.batch % (train.microbatches * devices):
            raise UserError(
                f"train.batch={train.batch} does not split into train.microbatches={train.microbatches} over "
                f"{devices} data-parallel devices; use a multiple of {train.microbatches * devices}"
            )


def _peak(model: Any, train: Train, mesh: Mesh | None, flops: float) -> float:
    """FLOP/s of all devices; 0 (no MFU) where a run of that many FLOPs is too short for measuring it."""
    one = train.peak_flops or (measured_peak(model.config.dtype) if flops > LONG else 0.0)
    return one * (1 if mesh is None else mesh.size)
