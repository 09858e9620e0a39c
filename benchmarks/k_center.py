"""k-center greedy over a million vectors: time and memory against the least that must be read, and against numpy.

    python benchmarks/k_center.py [--points 1000000] [--width 384] [--picks 2000] [--clusters 1000] [--peer-picks 10]

The last line is a JSON object. `seconds`: the second run's, so without compilation (`first_seconds`: the first's with
it); `peak_gib`: the most memory that the process held, the features included. `floor_seconds`: reading all features
once a pick, at the rate of a sum over them measured here, what greedy costs at least if it makes a pass a pick.
`peer_seconds`: numpy, a matrix-vector product and a minimum a pick, of `peer_picks` and scaled to all picks; its first
picks must be ours (`agree`). `load_average` much above 0: the figures say more about the machine than about the code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rmjax.refine.k_center import BATCH, greedy


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    points: int = 1_000_000
    width: int = 384
    picks: int = 2000
    clusters: int = 1000  # the points lie around so many centres; 0: one cloud
    labelled: int = 100  # points that are covered from the start
    batch: int = BATCH
    peer_picks: int = 10  # of numpy, which are then scaled


def points(b: Benchmark) -> jax.Array:
    """Gaussian vectors, in clusters or not, made a block at a time."""
    middle = jax.random.normal(jax.random.key(0), (max(1, b.clusters), b.width)) * bool(b.clusters)
    block = max(k for k in range(1, 1001) if b.points % k == 0)

    def one(number):
        where, around = jax.random.split(jax.random.fold_in(jax.random.key(1), number))
        own = middle[jax.random.randint(where, (block,), 0, len(middle))]
        return own + 0.5 * jax.random.normal(around, (block, b.width))

    return jax.jit(lambda: jax.lax.map(one, jnp.arange(b.points // block)).reshape(b.points, b.width))()


def numpy_greedy(x: np.ndarray, count: int, centres: np.ndarray) -> np.ndarray:
    """The loop that one would write."""
    squares = np.einsum("nf,nf->n", x, x)
    distance, out = np.full(len(x), np.inf, np.float32), []
    for j in [*centres, *[None] * count]:
        if j is None:
            out.append(j := int(np.argmax(distance)))
        taken = distance < 0
        distance = np.minimum(distance, np.maximum(squares - 2 * (x @ x[j]) + squares[j], 0))
        distance[taken] = -1
        distance[j] = -1
    return np.array(out)


def measure(b: Benchmark) -> dict[str, Any]:
    """The figures."""
    x = points(b)
    centres = np.arange(b.labelled)
    load = os.getloadavg()[0]
    total = jax.jit(lambda x: jnp.max(x @ jnp.ones(b.width)))
    total(x).block_until_ready()
    begun = time.perf_counter()
    for _ in range(5):
        total(x).block_until_ready()
    read = (time.perf_counter() - begun) / 5
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        found = greedy(x, b.picks, centres=centres, batch=b.batch)
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    host = np.asarray(x)
    begun = time.perf_counter()
    peer = numpy_greedy(host, b.peer_picks, centres)
    peer_seconds = (time.perf_counter() - begun) * (b.picks + b.labelled) / (b.peer_picks + b.labelled)
    return {
        **dataclasses.asdict(b),
        "seconds": round(seconds[1], 2),
        "first_seconds": round(seconds[0], 2),
        "peak_gib": round(peak, 2),
        "read_gb_per_second": round(x.nbytes / read / 1e9, 1),
        "floor_seconds": round(read * b.picks, 1),
        "peer_seconds": round(peer_seconds, 1),
        "agree": bool((peer == found[: b.peer_picks]).all()),
        "load_average": round(load, 2),
    }


if __name__ == "__main__":
    print(json.dumps(measure(tyro.cli(Benchmark, description=__doc__))))
