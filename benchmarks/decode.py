"""One decoding step on TPUs as XLA estimates it, against the bytes that it cannot do without. Nothing runs.

    pip install 'rmjax[tpu]' && python -m benchmarks.decode [--prompts 32] [--samples 8] [--room 256]

The sampler's round (`sampling/engine.py`) is compiled for the topology, Llama-3-8B in bfloat16 unless `model` says
otherwise, each prompt's cache shared by its samples. `step` is the compiler's estimate of one run of its loop, with
collectives by their bytes over the links (`rmjax/aot/timeline.py`), and `seconds` are its parts. `memory` is the step's
traffic of memory at full bandwidth: what is fetched ahead has no estimate of its own, and a step is at least that long.
`bound` are the weights and the caches, filled to the last of `room` tokens, each read once at the full bandwidth of all
chips; `ratio` is the larger of `step` and `memory` over it. `options` of the
compiler beside those of `rmjax/compiler.py`: name=value,...
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import tyro
from jax.sharding import Mesh

from rmjax import compiler
from rmjax.aot import hlo, programs, topology
from rmjax.aot.chips import chip
from rmjax.aot.links import Network
from rmjax.aot.presets import PRESETS
from rmjax.aot.timeline import Tally, Timeline
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.sampling.policy import Sampling


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is compiled."""

    model: str = "llama-3-8b"
    topology: str = "v5e:2x2"
    mesh: tuple[int, int, int] = (1, 1, 4)  # data x fsdp x tensor
    prompts: int = 32
    samples: int = 8  # of each prompt
    prompt: int = 1024  # tokens of a prompt
    room: int = 256  # tokens of a sample's cache
    temperature: float = 1.0
    top_p: float = 1.0
    options: str = ""
    text: str = ""  # a file for the optimised program


def least_bytes(c: DecoderConfig, b: Benchmark) -> dict[str, int]:
    """What a step reads at least, over all chips, bfloat16; of the embeddings only the rows of its tokens."""
    block = c.embed * c.head_dim * (2 * c.heads + 2 * c.kv_heads) + 3 * c.embed * c.mlp
    token = 2 * c.layers * c.kv_heads * c.head_dim
    return {
        "weights": 2 * (c.layers * block + c.vocab * c.embed),
        "prompts": 2 * token * b.prompts * b.prompt,
        "suffixes": 2 * token * b.prompts * b.samples * b.room,
    }


def one_step(text: str, b: Benchmark, mesh: Mesh) -> Tally:
    """The round's loop, once, without what the round does before and after it."""
    module = hlo.parse(text)
    loop = next(i for i in module.entry if i.opcode == "while" and module.trips(i, module.entry) is None)
    body = module.computations[loop.attribute(r"body=%([\w.\-]+)")]
    network = Network(chip(b.topology), topology.sizes(b.topology), tuple(tuple(d.coords) for d in mesh.devices.flat))
    return Timeline(dataclasses.replace(module, entry=body), network).run()


def measure(b: Benchmark) -> dict[str, Any]:
    """The estimate and the bound."""
    config, mesh = dataclasses.replace(PRESETS[b.model], dtype="bfloat16"), topology.mesh(b.topology, b.mesh)
    how = Sampling(temperature=b.temperature, top_p=b.top_p)
    shapes = dict(prompts=b.prompts, samples=b.samples, prompt=b.prompt, room=b.room)
    lowered = programs.sample(Model.of(config), mesh, how, **shapes).lowered
    own = dict(o.split("=", 1) for o in b.options.split(",") if o)
    compiled = lowered.compile(compiler_options={**compiler.DECODE, **own})
    if b.text:
        Path(b.text).write_text(compiled.as_text())
    found, sizes = one_step(compiled.as_text(), b, mesh), compiled.memory_analysis()
    bandwidth = chip(b.topology).bandwidth
    least, memory = least_bytes(config, b), found.bytes / bandwidth
    bound, step = sum(least.values()) / (mesh.size * bandwidth), max(found.step, memory)
    out = {"name": "decode", "step": found.step, "seconds": dict(found.seconds), "memory": memory, "bound": bound}
    out |= {"ratio": round(step / bound, 3), "least_bytes": least}
    out |= {"tokens_per_second": round(b.prompts * b.samples / step)}
    out |= {"collectives": {k: [found.counts[k], v] for k, v in found.collectives.items()}}
    out |= {"arguments": sizes.argument_size_in_bytes, "temporaries": sizes.temp_size_in_bytes}
    return out | {"jax": jax.__version__, "settings": dataclasses.asdict(b)}


if __name__ == "__main__":
    print(json.dumps(measure(tyro.cli(Benchmark, description=__doc__))))
