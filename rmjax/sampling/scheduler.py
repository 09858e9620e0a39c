"""The sampler: requests in, rollouts out, in the requests' order; what it does in between does not change a sample."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmjax import distributed
from rmjax.errors import UserError
from rmjax.models.model import Model
from rmjax.progress import TALLY, Meter
from rmjax.records import Rollout
from rmjax.sampling import shards
from rmjax.sampling.draws import words
from rmjax.sampling.engine import ROUND, Limits, State, engine_of
from rmjax.sampling.journal import Journal, digest, settings_of
from rmjax.sampling.layout import Layout, Need, layouts
from rmjax.sampling.policy import Sampling
from rmjax.sampling.stops import Stops
from rmjax.sampling.table import Job, Sample, Table

LOOK = 16  # steps between looks for stop strings
TURN = 4  # a round ends when one slot of so many is free and samples wait


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples first..first+samples-1 of one prompt. The id, not the place in a list, keys the random streams."""

    id: str
    prompt: Sequence[int]
    samples: int = 1
    first: int = 0


class Sampler:
    """Draws completions of prompts.

    The g samples of a prompt share its cache; a free slot takes the prompt's next sample, a finished prompt gives its
    row to the next. A sample is a function of the weights, the sampling, the seed, its request's id and prompt, and its
    index: batch, slots, order of requests and restarts do not change it (but for rounding, see `draws`).
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        chat: Any,
        sampling: Sampling,
        *,
        seed: int,
        prompts: int = 0,
        slots: int = 0,
        quiet: bool = False,
    ) -> None:
        """
        Args:
            model: a model with an output head.
            params: its parameters, not to be donated while the sampler is in use.
            chat: knows the final ids (`eos`) and decodes ids to text (`text`).
            sampling: how to draw.
            seed: of the random streams.
            prompts: prompts at once; 0 = chosen by work and memory.
            slots: samples at once of each prompt; 0 = chosen.
            quiet: no progress.

        Raises:
            UserError: ids beyond the vocabulary, a seed out of range, negative prompts or slots.
        """
        sampling.check_vocab(model.config.vocab)
        if prompts < 0 or slots < 0:
            raise UserError(f"sampler field prompts={prompts}, slots={slots}: use 0 (chosen) or a positive number")
        self._model, self._params, self._chat, self._sampling = model, params, chat, sampling
        self._seed, self._words = seed, words(seed)
        self._prompts, self._slots, self._quiet = prompts, slots, quiet
        self._eos = tuple(chat.eos)
        self._stops = Stops(chat, sampling.stop)
        self._engine = engine_of(model, sampling, self._eos)
        self._weights = self._engine.weights(params)

    def run(self, requests: Sequence[Request], *, path: Path | None = None, label: str = "sampling") -> list[Rollout]:
        """Samples all requests. Several processes take every so-many-th request each, and hand all rollouts to all.

        Args:
            requests: with distinct ids.
            path: JSONL file to which rollouts are appended as they finish. What it holds already is not sampled again,
                so the same call after an interruption goes on; `path` + ".run.json" says what it was sampled with. Each
                of several processes appends to a file of its own (`shards`).
            label: of the progress bar.

        Returns:
            Rollouts by request, then index.

        Raises:
            UserError: repeated ids, impossible requests, a file of other settings, a disk that takes no more (nothing
                that was finished is lost), log-probabilities that are not finite.
        """
        path = None if path is None else Path(path)
        self._check(requests)
        processes, settings, prompts, known = distributed.count(), {}, {}, {}
        if path is not None:
            settings = settings_of(self._params, self._model, self._sampling, self._seed, self._eos)
            prompts = {r.id: digest(r.prompt) for r in requests}
            known = shards.fold(path, settings, prompts)
            path = shards.own(path)
        mine = requests if processes == 1 else requests[distributed.index() :: processes]
        with distributed.alone():
            found = self._run(mine, known, None if path is None else Journal(path, settings, prompts), label)
        if processes > 1:
            sampled = sum(len(rollout.tokens) for rollout in found.values())
            parts = distributed.gather(found)
            found = {key: rollout for part in parts for key, rollout in part.items()}
            TALLY.add(sampled=sum(len(rollout.tokens) for rollout in found.values()) - sampled)
        known |= found
        return [known[r.id, i] for r in requests for i in _indices(r)]

    def _run(
        self, requests: Sequence[Request], known: Mapping[tuple[str, int], Rollout], journal: Journal | None, label: str
    ) -> dict[tuple[str, int], Rollout]:
        """The rollouts that are not known: those of the journal, and the rest sampled now."""
        found = {} if journal is None else dict(journal.known)
        have = known.keys() | found.keys()
        missing = {r.id: [i for i in _indices(r) if (r.id, i) not in have] for r in requests}
        asked = [r for r in requests if missing[r.id]]
        with contextlib.ExitStack() as stack:
            if journal is not None:
                stack.callback(journal.close)
            meter = stack.enter_context(Meter(label, sum(map(len, missing.values())), "samples", quiet=self._quiet))
            for rollout in self._sample(asked, missing, meter):
                found[rollout.id, rollout.index] = rollout
                if journal is not None:
                    journal.append(rollout)
        return found

    def _check(self, requests: Sequence[Request]) -> None:
        ids: set[str] = set()
        for r in requests:
            if not r.id or r.id in ids:
                raise UserError(f"request id {r.id!r} is empty or repeats: give every request its own")
            ids.add(r.id)
            if r.samples < 1 or r.first < 0:
                raise UserError(
                    f"request {r.id!r}: samples={r.samples}, first={r.first}; ask for at least 1, from 0 on"
                )
            if not len(r.prompt):
                raise UserError(f"request {r.id!r}: the prompt is empty; there is nothing to continue")
            if not 0 <= min(r.prompt) <= max(r.prompt) < self._model.config.vocab:
                raise UserError(
                    f"request {r.id!r}: the prompt has an id outside 0..{self._model.config.vocab - 1}; "
                    f"use the tokenizer that belongs to the model"
                )

    def _sample(
        self, requests: Sequence[Request], missing: Mapping[str, Sequence[int]], meter: Meter
    ) -> Iterator[Rollout]:
        """Rollouts of the missing indices, as they finish."""
        needs = [Need(len(r.prompt), len(missing[r.id])) for r in requests]
        limit = self._sampling.max_new_tokens
        groups = layouts(needs, self._model.config, limit, prompts=self._prompts, slots=self._slots)
        for layout, members in groups:
            jobs = [job for i in members for job in _jobs(requests[i], missing[requests[i].id], layout, len(members))]
            for samples in self._rounds(layout, jobs, meter):
                yield from map(self._rollout, samples)

    def _rounds(self, layout: Layout, jobs: Sequence[Job], meter: Meter) -> Iterator[list[Sample]]:
        """Rounds until all jobs are done. What one round completed is handed out while the next one runs."""
        limit, sizes = self._sampling.max_new_tokens, layout.sizes
        table = Table(layout.rows, layout.slots, jobs)
        state = self._engine.start(layout.rows, layout.slots, layout.length, sizes[0])
        most = min(ROUND, LOOK) if self._stops else ROUND
        ended = self._stops.recent if self._stops else None
        size, lengths, complete = sizes[0], [], []
        while True:
            state = self._read(state, layout, table.enter())
            slots = table.seat()
            if not table.busy:
                break
            # In the largest cache a token is overwritten only when its sample is longer than a completion may be.
            longest = int(table.lengths.max())
            if size < sizes[-1] and size - longest < LOOK:
                size = next(s for s in sizes if s > size)
                state = self._engine.grow(state, size)
            steps = most if size == sizes[-1] else min(most, size - longest)
            keep = table.busy - math.ceil(table.busy / TURN) if table.waiting else 0
            limits = Limits(np.int32(steps), np.int32(keep), np.int32(limit))
            state, drawn = self._engine.round(self._weights, state, slots, limits, self._words)
            yield complete
            drawn = jax.device_get(drawn)
            self._check_finite(drawn.logps[np.arange(ROUND)[:, None, None] < drawn.counts])
            complete = table.collect(drawn, ended)
            lengths += [len(sample.tokens) for sample in complete]
            usual = np.mean(lengths) if lengths else limit
            under_way = float(np.minimum(table.lengths / usual, 0.9).sum())
            tokens = int(drawn.counts.sum())
            TALLY.add(sampled=tokens)
            meter.update(len(complete), tokens, share=under_way)
        yield complete

    def _read(self, state: State, layout: Layout, entered: Sequence[tuple[int, Job]]) -> State:
        """Prefills the prompts of new jobs, `layout.reads` at a time."""
        for start in range(0, len(entered), layout.reads):
            some = entered[start : start + layout.reads]
            tokens = np.zeros((layout.reads, layout.length), np.int32)
            lengths = np.zeros(layout.reads, np.int32)
            rows = np.full(layout.reads, layout.rows, np.int32)  # beyond the last: dropped
            for i, (row, job) in enumerate(some):
                tokens[i, : len(job.prompt)] = job.prompt
                lengths[i], rows[i] = len(job.prompt), row
            state = self._engine.fill(self._weights, state, tokens, lengths, rows)
        return state

    def _rollout(self, sample: Sample) -> Rollout:
        """A complete sample as a record, cut at a stop string."""
        tokens, stopped = sample.tokens.tolist(), sample.stopped
        cut = self._stops.cut(tokens) if self._stops else None
        if cut is not None:
            tokens, stopped = tokens[: cut[0]], True
        return Rollout(
            id=sample.id,
            index=sample.index,
            tokens=tuple(tokens),
            logps=tuple(sample.logps[: len(tokens)].tolist()),
            text=self._chat.text(tokens) if cut is None else cut[1],
            finish="stop" if stopped else "length",
            watched=tuple(map(tuple, sample.watched[: len(tokens)].tolist())) if self._sampling.watch else (),
        )

    def _check_finite(self, logps: np.ndarray) -> None:
        if not np.isfinite(logps).all():
            raise UserError(
                "sampling: a log-probability is not finite: the weights hold NaN or overflow in "
                f"dtype={self._model.config.dtype!r}; check the checkpoint or use dtype='float32'"
            )


def _indices(request: Request) -> range:
    return range(request.first, request.first + request.samples)


def _jobs(request: Request, indices: Sequence[int], layout: Layout, requests: int) -> Iterator[Job]:
    """A request as one job, or as several where there would be fewer requests than rows."""
    turns = math.ceil(len(indices) / layout.slots)
    parts = max(1, min(turns, layout.rows // requests))
    size = math.ceil(turns / parts) * layout.slots
    for start in range(0, len(indices), size):
        yield Job(request.id, request.prompt, indices[start : start + size])
