"""The programs that jobs run on a device, lowered for a slice that is not there: shapes only, no weights.

Dimensions: b rows, t tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmjax.bounds import require
from rmjax.data import packing
from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError
from rmjax.models import flash_tiles
from rmjax.models.blockwise import Layout
from rmjax.models.model import Model
from rmjax.objectives.base import Objective
from rmjax.objectives.scores import Score
from rmjax.sampling.engine import Limits, Slots, engine
from rmjax.sampling.policy import Sampling
from rmjax.sharding import RULES, spec, tree_shardings
from rmjax.training.flops import train_flops
from rmjax.training.optimizer import Optimizer, transform
from rmjax.training.state import state_shapes, state_shardings
from rmjax.training.step import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowLayout:
    """What a packed row holds: one prompt, its completions, and pairs of a better and a worse one."""

    prompt: int = 1024  # tokens
    completions: int = 8  # of the prompt
    completion: int = 384  # tokens of each
    pairs: int = 16  # of completions; GFRIEND with half of 8 judgments right has 16

    def __post_init__(self) -> None:
        require("row.", self, "prompt", "completions", "completion", least=1)
        require("row.", self, "pairs", least=0)

    @property
    def length(self) -> int:
        """t: tokens of the row."""
        return self.prompt + self.completions * self.completion

    def rows(self) -> Rows:
        """One such row, b = 1, on the host."""
        of = range(self.completions)
        every = [(i, j) for i in of for j in of if i != j]
        group = Group(
            id="row",
            prompt=[1] * self.prompt,
            completions=[[1] * self.completion for _ in of],
            ref_logps=[-1.0] * self.completions,
            pairs=[every[i % len(every)] for i in range(self.pairs)] if every else [],
        )
        return packing.stack(packing.pack([group], packing.fit([group], length=self.length)).rows)


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered program and what one run of it is worth."""

    lowered: Any  # jax.stages.Lowered
    mesh: Mesh
    flops: float  # of the model over all chips: what MFU counts (`training/flops.py`)
    tokens: int  # that one run reads (train, score) or writes (sample), over all chips
    kernels: float = 1.0  # share of what attention's kernels declare (a causal row's) that these rows need


def like(tree: Any, shardings: Any) -> Any:
    """A tree of arrays or shapes -> ShapeDtypeStructs that lie as `shardings` say, a tree or one for all."""
    shaped = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: shaped(x, shardings), tree)
    return jax.tree.map(shaped, tree, shardings)


def batch(layout: RowLayout, rows: int, mesh: Mesh) -> Rows:
    """The shapes of a batch of `rows` such rows. UserError where they do not split over the mesh."""
    devices = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    if rows % devices:
        raise UserError(f"{rows} rows do not split over {devices} data-parallel chips: give a multiple of {devices}")
    one = layout.rows()
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), one)
    return like(many, NamedSharding(mesh, spec(("batch",))))


def train(
    model: Model,
    mesh: Mesh,
    objective: Objective,
    optimizer: Optimizer,
    *,
    layout: RowLayout,
    rows: int,
    microbatches: int = 1,
) -> Program:
    """One update on `rows` rows, over all chips."""
    tx = transform(optimizer.direction, model)
    state = like(state_shapes(model, tx), state_shardings(model, tx, mesh))
    base = model.split(model.shapes)[1]
    if base is not None:
        base = like(base, model.split(tree_shardings(model.axes, model.shapes, mesh))[1])
    shapes = batch(layout, rows, mesh)
    step = train_step(model, objective, optimizer, microbatches)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = step.lower(state, shapes, 1e-6, np.uint32(0), base)
    tokens = rows * layout.length
    flops = rows * train_flops(model, layout.rows())
    return Program(lowered, mesh, flops, tokens, kernel_share(layout.rows(), model.config.windows))


def score(model: Model, mesh: Mesh, score: Score, *, layout: RowLayout, rows: int) -> Program:
    """One forward pass that gives every candidate its score."""
    params = like(model.shapes, tree_shardings(model.axes, model.shapes, mesh))
    shapes = batch(layout, rows, mesh)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(functools.partial(score, model)).lower(params, shapes)
    flops, tokens = rows * train_flops(model, layout.rows()) / 3, rows * layout.length
    return Program(lowered, mesh, flops, tokens, kernel_share(layout.rows(), model.config.windows))


def kernel_share(rows: Rows, windows: tuple[int, ...] | int | None = None) -> float:
    """Tiles that attention's kernels compute of these rows, over the most that they could need, which they declare.

    Args:
      windows: of the model's layers (`DecoderConfig.windows`); where they differ, the mean over layers.
    """
    if isinstance(windows, tuple):
        each = {w: kernel_share(rows, w) for w in set(windows)}
        return sum(each[w] for w in windows) / len(windows)
    block = flash_tiles.block_size(rows.group.shape[1])
    more = -rows.group.shape[1] % block
    fill = lambda x, value: np.pad(x, ((0, 0), (0, more)), constant_values=value)
    layout = Layout(fill(rows.positions, 0), fill(rows.group, -1), fill(rows.branch, 0), windows)
    b, t = layout.group.shape
    needed = int(jax.jit(lambda x: flash_tiles.list_tiles(x, block, causal=True).count)(layout))
    return needed / flash_tiles.most_tiles(b, t // block, True)


def sample(
    model: Model, mesh: Mesh, sampling: Sampling, *, prompts: int, samples: int, prompt: int, room: int
) -> Program:
    """A round of decoding steps; its loop's trip count is data, so one step is what counts.

    Args:
      prompts, samples: rows and slots of a row, over all chips.
      prompt: tokens of a prompt.
      room: tokens that the suffix cache holds of a sample.
    """
    devices = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    if prompts % devices:
        raise UserError(f"{prompts} prompts do not split over {devices} data-parallel chips: give a multiple")
    work = engine(model, sampling, (2,))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # which an output head is filled up for
        weights = jax.eval_shape(work.weights, model.shapes)
    axes = model.axes["decoder"]["blocks"]
    blocks = like_blocks(weights.blocks, axes, mesh)
    params = like(weights.params, tree_shardings(model.axes, model.shapes, mesh))
    weights = dataclasses.replace(weights, params=params, blocks=blocks)
    rows, everywhere = NamedSharding(mesh, spec(("batch",))), NamedSharding(mesh, P())
    heads = NamedSharding(mesh, spec(("batch", "kv_heads")))
    state = jax.eval_shape(functools.partial(work._start, prompts, samples, prompt, room))
    lies = lambda x: everywhere if not x.shape else heads if x.ndim == 4 else rows
    state = like(state, jax.tree.map(lies, state))
    number = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows if shape else everywhere)
    flag = jax.ShapeDtypeStruct((prompts, samples), jnp.bool_, sharding=rows)
    ids = jax.ShapeDtypeStruct((prompts, 2), jnp.uint32, sharding=rows)
    slots = Slots(ids=ids, index=number(prompts, samples), fresh=flag, idle=flag)
    limits = Limits(steps=number(), keep=number(), length=number())
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=everywhere)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = work.round.lower(weights, state, slots, limits, seed)
    flops = prompts * samples * decode_flops(model, prompt + room // 2)
    return Program(lowered, mesh, flops, prompts * samples)


def like_blocks(blocks: Any, axes: Any, mesh: Mesh) -> Any:
    """The shapes of layers one by one, lying as their stack does."""
    lies = [NamedSharding(mesh, spec(a[1:])) for a in jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))]
    leaves, tree = jax.tree.flatten(blocks)
    return jax.tree.unflatten(tree, [like(x, lies[i % len(lies)]) for i, x in enumerate(leaves)])


def decode_flops(model: Model, seen: int) -> float:
    """FLOPs of one new token that sees `seen` others: 2 per parameter it meets, and attention."""
    c, matrices = model.config, model.matrices["decoder"]["blocks"]
    sizes = jax.tree.map(lambda m, s: math.prod(s.shape) * m, matrices, model.shapes["decoder"]["blocks"])
    body = sum(jax.tree.leaves(sizes)) + c.vocab * c.embed
    return 2.0 * body + 4.0 * c.layers * c.heads * c.head_dim * seen
