"""One of several processes: python one_of_several.py WHAT [FOLDER STEP]; the environment says which.

silent  process 1 is killed while process 0 is busy without it
killed  agree, score, sample and train in FOLDER; before update STEP process 1 is killed
train   train in FOLDER; the last process cannot read the newest checkpoint there
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rmjax import distributed
from rmjax.errors import UserError


def silent() -> int:
    distributed.HEARTBEAT = 2
    distributed.start(timeout=60)
    distributed.agree(None)
    if distributed.index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return 0


def agreeing(folder: Path) -> None:
    from rmjax.jobs.workdir import Workdir

    this, count = distributed.index(), distributed.count()
    assert distributed.gather({"who": this, "much": b"x" * (this * 3000)}) == [
        {"who": i, "much": b"x" * (i * 3000)} for i in range(count)
    ]
    assert distributed.agree(this) == 0
    with distributed.alone():
        assert (distributed.count(), distributed.writes(), distributed.agree(this)) == (1, True, this)

    def refuse() -> None:
        assert this == 0
        raise UserError("said once")

    refused("said once", lambda: distributed.first(refuse))
    refused("process 1 has other settings or data", lambda: Workdir(folder / "other", {"rank": this}, {}))
    assert not (folder / "other").exists()


def refused(said: str, work: Callable[[], object]) -> None:
    try:
        work()
    except UserError as e:
        assert said in str(e)
    else:
        raise AssertionError(f"a process goes on: {said}")


def killed() -> int:
    folder, step = Path(sys.argv[2]), int(sys.argv[3])
    distributed.start(timeout=120)
    import numpy as np
    import small_training
    from small_training import MODEL, groups, requests, sampler

    from rmjax import jsonl
    from rmjax.jobs.devices import Devices
    from rmjax.judging.rescoring import token_scores
    from rmjax.training import loop

    agreeing(folder)
    texts = [(g.prompt, g.completions[0]) for g in groups(40)]
    with Devices().use():
        whole = token_scores(MODEL, small_training.params(), texts, batch=4)  # every batch over all processes
        with Devices().own():
            params = small_training.params()
            apart = token_scores(MODEL, params, texts, batch=4)  # every process its batches
            rollouts = sampler(params).run(requests(), path=folder / "rollouts.jsonl")
        np.testing.assert_allclose(np.concatenate(whole), np.concatenate(apart), atol=1e-5)
        jsonl.write(folder / "samples.jsonl", rollouts)

        usual, left = loop.place_rows, [step]

        def place(rows, mesh):
            left[0] -= 1
            if not left[0] and distributed.index() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(rows, mesh)

        loop.place_rows = place
        small_training.train(folder, **small_training.EVALUATED)
    return 0


def train() -> int:
    distributed.start(timeout=120)
    import jax
    import numpy as np
    import small_training
    from orbax.checkpoint import v1 as ocp

    from rmjax.jobs.devices import Devices

    folder, usual, whole = Path(sys.argv[2]), ocp.load_checkpointables, [distributed.index() < distributed.count() - 1]

    def load(path, wanted):
        readable, whole[0] = whole[0], True
        return usual(path, wanted if readable else {"state": {"of another": jax.ShapeDtypeStruct((3,), np.float32)}})

    ocp.load_checkpointables = load
    with Devices().use():
        end = small_training.train(folder, **small_training.EVALUATED)
    end = [jax.device_get(x) for x in jax.tree.leaves(end)]
    if distributed.writes():
        np.savez(folder / "params.npz", *end)
    return 0


if __name__ == "__main__":
    distributed.run({"silent": silent, "killed": killed, "train": train}[sys.argv[1]])
