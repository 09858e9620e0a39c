"""What a program would need and take on a TPU slice, by the TPU's own compiler; no TPU, no weights."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console

from rmjax import compiler, json_file, jsonl
from rmjax.aot import programs, topology
from rmjax.aot.chips import chip
from rmjax.aot.estimate import DoesNotFit, estimate
from rmjax.aot.presets import PRESETS
from rmjax.aot.programs import Program, RowLayout
from rmjax.bounds import require
from rmjax.config import to_json
from rmjax.errors import UserError
from rmjax.evaluation.ledger import Prices
from rmjax.evaluation.provenance import Provenance, versions
from rmjax.jobs import compile_report
from rmjax.jobs.devices import Devices
from rmjax.jobs.workdir import Workdir
from rmjax.models.config import REMATS, DecoderConfig, Lora, Remat, Weights
from rmjax.models.families import read_config
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Implicit, Scalar
from rmjax.sampling.policy import Sampling
from rmjax.training.optimizer import Optimizer

console = Console()
Kind = Literal["train", "score", "sample"]
UNREAD: Mapping[Kind, tuple[str, ...]] = {  # settings that a program has no use for
    "train": ("prompts", "samples", "room"),
    "score": ("prompts", "samples", "room", "microbatches", "remat", "lora"),
    "sample": ("rows", "microbatches", "remat", "lora"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """How a program is laid out on a slice: what `--fit` searches."""

    data: int
    fsdp: int
    tensor: int
    rows: int  # per data-parallel chip
    microbatches: int
    remat: Remat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A line of points.jsonl: what the compiler said of one point."""

    key: str  # all that the program depends on
    point: dict[str, Any]
    fits: bool
    needs: float | None  # bytes a chip; None: the compiler did not say
    facts: dict[str, Any] | None  # `Estimate.facts`; None where it does not fit
    why: str = ""  # not even that: the mesh is none of the model's or of the network's, or what the compiler said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """What --fit tries: every combination, the meshes being all of fsdp and tensor that divide the slice."""

    rows: tuple[int, ...] = (1, 2, 4)  # per data-parallel chip
    remats: tuple[Remat, ...] = ("full", "attention", "qkv", "products")
    tensors: tuple[int, ...] = (1,)  # parts of every matrix
    datas: tuple[int, ...] = (1,)  # copies of the model
    whole: tuple[bool, ...] = (True, False)  # a batch at once, or a row of each chip at a time (microbatches)

    def __post_init__(self) -> None:
        for name in ("rows", "remats", "tensors", "datas", "whole"):
            if not getattr(self, name):
                raise UserError(f"space.{name} is empty: give at least one to try")
        if odd := [r for r in self.remats if r not in REMATS]:
            raise UserError(f"space.remats={odd[0]!r}: use {', '.join(REMATS)}")
        if odd := [n for name in ("rows", "tensors", "datas") for n in getattr(self, name) if n < 1]:
            raise UserError(f"space: {odd[0]}: give numbers of at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileJob:
    """Compiles a program for a TPU slice that is not there: memory a chip, time, MFU, what bounds it, cost.

    All figures are the compiler's estimates or bounds (docs/compile.md); nothing runs. A point takes minutes of a core.
    """

    workdir: str = "runs/compile"
    preset: str = "llama-3-8b"  # shapes of a known model: see docs/compile.md
    model: str = ""  # a config.json, or a directory that holds one, instead of the preset
    topology: str = "v5e:4x4"  # chip and slice: v5e:4x4, v5p:2x2x2, v6e:8x8
    program: Kind = "train"  # train: an M-DPO update; score: reward of packed rows; sample: a decoding step
    devices: Devices = Devices()  # the mesh
    rows: int = 1  # packed rows per data-parallel chip (train, score)
    microbatches: int = 1  # pieces that they are computed in (train)
    remat: Remat = "full"
    lora: Lora = Lora()  # adapters instead of all parameters (train)
    weights: Weights = "float32"  # how what is not trained is kept
    row: RowLayout = RowLayout()
    prompts: int = 32  # over all chips (sample)
    samples: int = 8  # of a prompt (sample)
    room: int = 512  # tokens that the cache holds of a sample (sample)
    options: tuple[str, ...] = ()  # more compiler options, NAME=VALUE
    prices: str = ""  # price list, .json or .toml: hour is the price of the whole slice for an hour
    fit: bool = False  # search rows, microbatches, remat and mesh for the fastest that fits
    space: Space = Space()  # what --fit tries

    def __post_init__(self) -> None:
        require("", self, "rows", "microbatches", "prompts", "samples", "room", least=1)
        topology.sizes(self.topology)
        if self.remat not in REMATS:
            raise UserError(f"--remat {self.remat}: use {', '.join(REMATS)}")
        if not self.model and self.preset not in PRESETS:
            raise UserError(
                f"--preset {self.preset}: not known; known: {', '.join(PRESETS)}; --model takes a config.json"
            )
        if self.program not in UNREAD:
            raise UserError(f"--program {self.program}: use {', '.join(UNREAD)}")
        if self.program == "sample" and self.fit:
            raise UserError("--fit searches how to train or score; a decoding step has no remat and no rows")
        if self.program == "sample" and self.row != RowLayout(prompt=self.row.prompt):
            raise UserError("--row: --program sample reads its prompt alone; --samples and --room say the rest")
        if self.program == "train" and self.weights != "float32" and not self.lora.rank:
            raise UserError(f"--weights {self.weights}: all parameters are trained, in float32; give --lora.rank")
        if self.model:
            self._refuse("--model takes its place", "preset")
        self._refuse(f"--program {self.program} does not read it", *UNREAD[self.program])
        if self.fit:
            self._refuse("--fit searches it, in --space", "devices", "rows", "microbatches", "remat")
        else:
            self._refuse("only --fit reads it", "space")
        if self.rows % self.microbatches:
            raise UserError(f"--rows {self.rows} does not split into --microbatches {self.microbatches}")
        if odd := [o for o in self.options if "=" not in o]:
            raise UserError(f"--options {odd[0]}: write NAME=VALUE")

    def _refuse(self, why: str, *names: str) -> None:
        """Raises UserError where one of these settings is not as it would be anyway."""
        for field in dataclasses.fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise UserError(f"--{field.name}: {why}; leave it out")

    def run(self, command: str = "") -> None:
        """Compiles, prints the table, writes summary.json."""
        jax.config.update("jax_platforms", "cpu")  # nothing runs on a device
        prices = Prices.read(self.prices) if self.prices else None
        if prices and prices.hour is None:
            raise UserError(f"{self.prices}: has no price of an hour of the slice; add: hour = 19.2")
        config, chips = self.config(), len(topology.devices(self.topology))
        points = list(self.points(chips)) if self.fit else [self.point(chips)]
        work = Workdir(self.workdir, {"job": "compile"}, {})  # points of other settings are welcome beside these
        provenance = Provenance(
            work / "run.json", command=command, config=to_json(self), data={}, seed=0, labels={}, libtpu=_libtpu()
        )
        appender = jsonl.Appender(work / "points.jsonl", Found)
        known = {line.key: line for line in appender.existing}
        found = []
        try:
            for number, point in enumerate(points):
                key = self.key(config, point)
                if key not in known:
                    console.print(f"{number + 1} of {len(points)}: {compile_report.words(point)}")
                    known[key] = self.compile(config, point, key)
                    appender.append(known[key])
                found.append(known[key])
        finally:
            appender.close()
        best = min((f for f in found if f.fits), key=_time_per_token, default=None)
        facts = {
            "topology": self.topology,
            "chips": chips,
            "model": self.model or self.preset,
            "program": self.program,
            "best": best and dataclasses.asdict(best),
            "points": [dataclasses.asdict(f) for f in found],
            "cost_of_a_million_tokens": prices and best and _cost(best, prices.hour),
            "currency": prices and prices.currency,
        }
        json_file.write(work / "summary.json", facts)
        provenance.finish()
        compile_report.show(console, facts, chip(self.topology), found, best)
        console.print(f"numbers: {work / 'summary.json'}")

    def config(self) -> DecoderConfig:
        """The model's shapes."""
        if not self.model:
            return dataclasses.replace(PRESETS[self.preset], dtype="bfloat16")
        path = Path(self.model)
        path = path / "config.json" if path.is_dir() else path
        raw = json_file.read(path)
        if not isinstance(raw, dict) or raw.get("model_type") == "bert":
            raise UserError(f"--model {path}: compile takes the config.json of a decoder")
        return dataclasses.replace(read_config(raw, str(path)), dtype="bfloat16")

    def point(self, chips: int) -> Point:
        """The one that the settings name."""
        data, fsdp, tensor = self.devices.shape(chips)
        return Point(
            data=data, fsdp=fsdp, tensor=tensor, rows=self.rows, microbatches=self.microbatches, remat=self.remat
        )

    def points(self, chips: int) -> Iterator[Point]:
        """Those of --fit, those that need little memory first."""
        s = self.space
        remats = s.remats if self.program == "train" else ("full",)
        whole = s.whole if self.program == "train" else (True,)
        seen = set()
        for tensor, data, rows, remat, at_once in itertools.product(s.tensors, s.datas, s.rows, remats, whole):
            if chips % (tensor * data):
                continue
            point = Point(
                data=data,
                fsdp=chips // (tensor * data),
                tensor=tensor,
                rows=rows,
                microbatches=1 if at_once else rows,
                remat=remat,
            )
            if point not in seen:
                seen.add(point)
                yield point

    def key(self, config: DecoderConfig, point: Point) -> str:
        """All that the compiler's answer depends on, in words."""
        what = [config, self.topology, self.program, self.row, self.lora, self.weights, self.options, self.usual]
        what += [point, self.prompts, self.samples, self.room] if self.program == "sample" else [point]
        return json.dumps([to_json(x) for x in what] + [versions()["jax"], versions()["rmjax"], _libtpu()])

    @property
    def usual(self) -> Mapping[str, str]:
        """The compiler's options that jobs run the program with."""
        return compiler.DECODE if self.program == "sample" else compiler.TPU

    def compile(self, config: DecoderConfig, point: Point, key: str) -> Found:
        """Asks the compiler.

        Raises:
          UserError: a mesh that is none of the model's or of the network's, but in a search; an option of no compiler.
        """
        settings = dataclasses.asdict(point)
        options = {**self.usual, **dict(o.split("=", 1) for o in self.options)}
        try:
            program = self.lower(config, point)
        except UserError as e:
            if not self.fit:
                raise
            return Found(key=key, point=settings, fits=False, needs=None, facts=None, why=str(e))
        try:
            facts = estimate(program, self.topology, options).facts()
        except DoesNotFit as e:
            why = str(e) if e.needs is None else ""
            return Found(key=key, point=settings, fits=False, needs=e.needs, facts=None, why=why)
        return Found(key=key, point=settings, fits=True, needs=facts["hbm"]["peak"], facts=facts)

    def lower(self, config: DecoderConfig, point: Point) -> Program:
        """The program of one point."""
        mesh = topology.mesh(self.topology, (point.data, point.fsdp, point.tensor))
        rows = point.rows * point.data * point.fsdp
        config = dataclasses.replace(config, weights=self.weights, remat=point.remat)
        match self.program:
            case "train":
                if self.lora.rank:
                    config = dataclasses.replace(config, lora=self.lora)
                objective, how = Pairwise(score=Implicit()), {"microbatches": point.microbatches}
                return programs.train(Model.of(config), mesh, objective, Optimizer(), layout=self.row, rows=rows, **how)
            case "score":
                return programs.score(Model.of(config, Linear()), mesh, Scalar(), layout=self.row, rows=rows)
            case "sample":
                sizes = {"prompts": self.prompts, "samples": self.samples, "prompt": self.row.prompt}
                return programs.sample(Model.of(config), mesh, Sampling(), **sizes, room=self.room)


def _time_per_token(found: Found) -> float:
    return 1 / found.facts["tokens_per_second"]


def _cost(found: Found, hour: float) -> float:
    return hour / 3600 / found.facts["tokens_per_second"] * 1e6


def _libtpu() -> str:
    return importlib.metadata.version("libtpu")
