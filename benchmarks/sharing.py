"""What one packed row a prompt saves of a training step on TPUs, as XLA estimates it. Nothing runs.

    pip install 'rmjax[tpu]' && python -m benchmarks.sharing [--model llama-3-8b] [--topology v5e:4x4]

GFRIEND's shape: a prompt of 1,024 tokens and 8 judgments of 256, half of them accepted, so 16 pairs of an accepted and
a rejected one. An M-DPO update (all parameters, Adam, bfloat16 products, every layer recomputed in the backward pass)
is compiled in three layouts of the same `prompts`:

- `packed`: a row a prompt, which is computed once, 1,024 + 8 x 256 = 3,072 tokens;
- `candidates`: every judgment in a row of its own with its own copy of the prompt, 8 rows of 1,280 tokens a prompt.
  This is the step that `ratio` compares with. Its pairs would join rows, which this trainer's loss does not do; their
  arithmetic, a sum over 16 numbers, is left out;
- `pairs`: every pair as two whole sequences, as trainers of pairs have it: 2 x 16 rows of 1,280 tokens a prompt.

No row has padding, so none of the three pays for it; the tokens alone are 3.3 and 13.3 times as many. Rows are cut into
as few microbatches as fit the memory, tried in powers of two. `step` is seconds of an update, estimated by the
compiler, `cycles` the same in cycles, `matrix_cycles` those of the products alone. Attention's kernel has no estimate
and counts with its FLOPs at half of the peak (`rmjax/aot/timeline.py`), those of the tiles that a row needs.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import tyro

from rmjax.aot import programs, topology
from rmjax.aot.estimate import DoesNotFit, Estimate, estimate
from rmjax.aot.presets import PRESETS
from rmjax.aot.programs import RowLayout
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Implicit
from rmjax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is compiled."""

    model: str = "llama-3-8b"
    topology: str = "v5e:4x4"
    prompts: int = 16  # of an update, over all chips
    prompt: int = 1024  # tokens
    judgments: int = 8
    judgment: int = 256  # tokens


def layouts(b: Benchmark) -> dict[str, tuple[RowLayout, int]]:
    """What a row holds, and how many rows a prompt needs."""
    accepted = b.judgments // 2
    pairs = accepted * (b.judgments - accepted)
    alone = RowLayout(prompt=b.prompt, completions=1, completion=b.judgment, pairs=0)
    packed = RowLayout(prompt=b.prompt, completions=b.judgments, completion=b.judgment, pairs=pairs)
    return {"packed": (packed, 1), "candidates": (alone, b.judgments), "pairs": (alone, 2 * pairs)}


def fitted(b: Benchmark, layout: RowLayout, rows: int) -> tuple[Estimate, int]:
    """The estimate with the fewest microbatches that fit, and how many those are."""
    mesh = topology.mesh(b.topology, (1, len(topology.devices(b.topology)), 1))
    model = Model.of(dataclasses.replace(PRESETS[b.model], dtype="bfloat16", remat="full"))
    objective, microbatches = Pairwise(score=Implicit(beta=0.1)), 1
    while True:
        shapes = dict(layout=layout, rows=rows, microbatches=microbatches)
        program = programs.train(model, mesh, objective, Optimizer(), **shapes)
        try:
            return estimate(program, b.topology), microbatches
        except DoesNotFit:
            if rows // (2 * microbatches) < mesh.size:
                raise
            microbatches *= 2


def measure(b: Benchmark) -> dict[str, Any]:
    """All three."""
    out: dict[str, Any] = {"name": "sharing", "settings": dataclasses.asdict(b), "jax": jax.__version__}
    for name, (layout, many) in layouts(b).items():
        found, microbatches = fitted(b, layout, many * b.prompts)
        seconds = dict(found.tally.seconds)
        out[name] = {"step": found.step, "seconds": seconds, "per_prompt": found.step / b.prompts}
        out[name] |= {"cycles": found.step * found.chip.clock, "matrix_cycles": seconds["matrix"] * found.chip.clock}
        out[name] |= {"rows": many * b.prompts, "row_tokens": layout.length, "microbatches": microbatches}
        out[name] |= {"peak_bytes": found.peak, "mfu": round(found.mfu, 3), "unknown_loops": found.tally.unknown}
        print(name, json.dumps(out[name]), flush=True)
    for name, key in (("candidates", "ratio"), ("pairs", "pairs_ratio")):
        out[key] = round(out[name]["step"] / out["packed"]["step"], 2)
    return out


if __name__ == "__main__":
    print(json.dumps(measure(tyro.cli(Benchmark, description=__doc__))))
