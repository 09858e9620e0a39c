"""Scores with a reward model: every answer of pairs, or single responses.

Scores are appended to scores.jsonl part by part, and a killed run goes on at the first part that is not whole there.
Parts are cut by position, so a resumed run packs the same items together and writes the same bytes as an unbroken one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float
from rich.console import Console

from rmjax import distributed, json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.config import to_json
from rmjax.data import packing
from rmjax.data.sources import Source, read_demonstrations
from rmjax.errors import UserError
from rmjax.evaluation.baselines import lengths
from rmjax.evaluation.calibrator import Calibrator
from rmjax.evaluation.pairwise import ItemScore, from_scores
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs.devices import Devices
from rmjax.jobs.reward import Overlong, RewardModel, load_calibrator, load_reward, origin_of
from rmjax.jobs.score_report import ResponseScore, Result, conclude_pairs, conclude_responses
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.workdir import Workdir
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Demonstration, Preference, content_id
from rmjax.sampling.journal import fingerprint

console = Console()
PART = 512  # items that are scored together and then appended to the file
Line = TypeVar("Line", ItemScore, ResponseScore)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """Scores every answer with a reward model; writes scores.jsonl, report.html, summary.json, RewardBench's files."""

    processes: ClassVar[bool] = True  # several can do it together
    workdir: str = "runs/score"
    model: ModelSource = ModelSource()  # an export of train, or any classifier with one label
    data: PairFile = PairFile()
    more: tuple[str, ...] = ()  # further files of pairs, read by the policies of --data; each file is a set
    responses: str = ""  # instead of pairs: a file of single responses (prompt and completion)
    against: str = ""  # scores.jsonl of another model on the same items: the two are compared
    calibrated: bool = True  # apply the calibrator that the directory holds, if any
    max_length: int = 0  # tokens of prompt and answer together; 0: the model's own positions
    overlong: Overlong = "auto"  # longer ones: error, drop or cut; auto: a decoder refuses them, an encoder cuts
    devices: Devices = Devices()
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "max_length", least=0)
        if self.responses and (self.data != PairFile() or self.more or self.against):
            raise UserError("--responses is scored instead of pairs: leave out --data.*, --more and --against, or it")
        if self.more and self.data.limit:
            raise UserError(f"--data.limit {self.data.limit} with --more: give one file, or no limit")

    def run(self, command: str = "") -> None:
        """Scores on all devices and prints the summary."""
        with self.devices.use():
            self.score(command)

    def score(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        sources = {} if self.responses else self.read()
        responses = read_demonstrations(self.responses) if self.responses else []
        other = (self.against, jsonl.read(self.against, ItemScore)) if self.against else None
        read = [p.id for s in sources.values() for p in s.records]
        same_items(read, other, dropping=self.overlong == "drop")
        reward = load_reward(self.model, length=self.max_length)
        directory = self.model.directory()
        kept = load_calibrator(directory, reward) if self.calibrated else None
        calibrator = Calibrator() if kept is None else kept[0]
        fit = lambda items, what: reward.limited(
            items, most=self.max_length, policy=self.overlong, usual="error", flag="--overlong", what=what
        )
        sets = {name: fit(list(s.records), f"pairs of {name}") for name, s in sources.items()}
        same_items([p.id for items in sets.values() for p in items], other)
        responses = fit(responses, "responses") if responses else []
        hashes = {s.path: s.hash for s in sources.values()}
        if responses:
            hashes[self.responses] = content_id((), *(d.id for d in responses))
        origin = origin_of(directory)
        warn(hashes, dict(origin.get("data", {})), "the model was trained")
        warn(hashes, {} if kept is None else kept[1], "its calibrator was fitted")
        hashes[f"weights of {self.model.path}"] = fingerprint(reward.params)
        hashes["calibrator"] = repr(calibrator)
        # Whom the scores are compared with changes no score, so it may change in the same folder.
        settled = {name: value for name, value in to_json(self).items() if name != "against"}
        work = Workdir(self.workdir, settled, hashes)
        read_labels = {sources[name].path: len(items) for name, items in sets.items()}  # single responses have none
        provenance = Provenance(
            work / "run.json", command=command, config=to_json(self), data=hashes, seed=self.seed, labels=read_labels
        )
        console.print(f"rewards: {'as the model gives them' if kept is None else calibrator.words}")
        path = work / "scores.jsonl"
        if responses:
            lines, _ = in_parts(path, ResponseScore, responses, reward, functools.partial(response_scores, calibrator))
            conclude_responses(work, lines, calibrator=calibrator, seed=self.seed)
            provenance.finish(contract=reward.chat.contract())
            return
        every = [p for items in sets.values() for p in items]
        lines, seconds = in_parts(path, ItemScore, every, reward, functools.partial(pair_scores, calibrator))
        rest = iter(lines)
        scores = {name: list(itertools.islice(rest, len(items))) for name, items in sets.items()}
        name, labels = model_name(self.model.path), origin.get("labels", 0)
        result = Result(model=name, labels=labels, sets=sets, scores=scores, calibrator=calibrator)
        run = provenance.finish(contract=reward.chat.contract())
        conclude_pairs(work, result, reward, other=other, seconds=seconds, seed=self.seed, run=run)

    def read(self) -> Mapping[str, Source]:
        """Name of a set -> its pairs. UserError where a name or an id is in two files."""
        out: dict[str, Source] = {}
        owner: dict[str, str] = {}
        for path in (self.data.path, *self.more):
            source = dataclasses.replace(self.data, path=path).read()
            name = Path(path).name.split(".")[0]
            if name in out:
                raise UserError(f"--more {path}: a set named {name!r} is there already; rename the file")
            for p in source.records:
                if p.id in owner:
                    raise UserError(f"{path}: item {p.id!r} is in {owner[p.id]} too; give every item its own id")
                owner[p.id] = path
            out[name] = source
        return out


def in_parts(
    path: Path,
    type_: type[Line],
    items: Sequence[Preference | Demonstration],
    reward: RewardModel,
    lines_of: Callable[[Sequence[Any], Float[np.ndarray, "n k"]], list[Line]],
) -> tuple[list[Line], float]:
    """A line of the file for every item, in their order; items that the file has already are not scored again.

    With them the seconds that scoring took, those of earlier runs too: `seconds.json` beside the file has the sum.

    Args:
        lines_of: some of the items and their rewards -> their lines.

    Raises:
        UserError: the file holds lines of other items.
    """
    begun, clock = time.perf_counter(), path.with_name("seconds.json")
    with jsonl.Appender(path, type_) as file:
        out = file.existing
        before = json_file.read(clock)["seconds"] if out and clock.exists() else 0.0
        out, before = distributed.agree((out, before))
        if [line.id for line in out] != [item.id for item in items[: len(out)]]:
            raise UserError(f"{path}: holds scores of other items; remove the file to score anew")
        if len(out) == len(items):
            return out, before
        if out:
            console.print(f"{len(out):,} of {len(items):,} items are scored already")
        groups = reward.groups(items)
        length = packing.fit(groups, share=reward.model.share).length  # one shape of rows for all parts
        for start in range(len(out) // PART * PART, len(items), PART):
            part = slice(start, start + PART)
            found = slot_scores(reward.model, reward.params, groups[part], Scalar(), length=length)
            for line in lines_of(items[part], np.stack(found))[len(out) - start :]:
                file.append(line)
                out.append(line)
            seconds = before + time.perf_counter() - begun
            json_file.write(clock, {"seconds": round(seconds, 3)})
    return out, seconds


def pair_scores(
    calibrator: Calibrator, items: Sequence[Preference], rewards: Float[np.ndarray, "n 2"]
) -> list[ItemScore]:
    """Calibrated scores of pairs; the sigmoid of their difference is the probability."""
    return from_scores(items, calibrator.apply(rewards, lengths(items)), logistic=True)


def response_scores(
    calibrator: Calibrator, items: Sequence[Demonstration], rewards: Float[np.ndarray, "n 1"]
) -> list[ResponseScore]:
    """Calibrated scores of single responses. UserError where one is not a finite number."""
    sizes = np.array([len(d.completion) for d in items], np.float64)
    scores = calibrator.apply(rewards[:, 0], sizes)
    for d, score in zip(items, scores, strict=True):
        if not np.isfinite(score):
            raise UserError(f"response {d.id!r}: reward {score} is not finite; evaluate in float32")
    return [
        ResponseScore(id=d.id, score=float(score), characters=len(d.completion), source=d.source)
        for d, score in zip(items, scores, strict=True)
    ]


def same_items(ids: Sequence[str], other: tuple[str, Sequence[ItemScore]] | None, *, dropping: bool = False) -> None:
    """Raises UserError where the other model's scores are not of these items, each once.

    Args:
        dropping: some of `ids` may still be left out, so that the other may lack them.
    """
    if other is None:
        return
    path, scores = other
    theirs, ours = {s.id for s in scores}, set(ids)
    if len(theirs) < len(scores):
        raise UserError(
            f"--against {path}: {len(scores) - len(theirs)} items are scored twice; give a whole scores.jsonl"
        )
    if stray := sorted(theirs - ours if dropping else theirs ^ ours):
        where = "there" if stray[0] in theirs else "here"
        raise UserError(
            f"--against {path}: the two models judged different items ({len(stray)} not shared; {stray[0]!r} is only "
            f"{where}): evaluate both on the same pairs, by the same policies"
        )


def warn(files: Mapping[str, str], seen: Mapping[str, str], what: str) -> None:
    """Says which of the files were seen before, so that a figure on them is no test."""
    names = [path for path, hash in files.items() if hash in seen.values()]
    if names:
        console.print(f"[bold]{', '.join(names)}[/]: {what} on pairs of this file, so the figures are no test of it")


def model_name(path: str) -> str:
    """A model's name: the last two parts of its path, as in owner/name or run/export."""
    return "/".join(Path(os.path.abspath(Path(path).expanduser())).parts[-2:]).strip("/")
