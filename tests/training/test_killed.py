"""kill -9 at twenty random moments, in a checkpoint's write too: each training ends as an unbroken one, bit for bit."""

import random
import signal

import numpy as np
from forked_training import run, start
from small_training import equal, rows, train

KILLS = 20
OPTIONS = dict(eval_every=3, eval_share=0.3, select="best")  # checkpoints after steps 4, 8, 12, 14 and every best one
TOUCHES, SECONDS = 60, 0.8  # of files, about half of a training's; after the first step


def test_killed_at_twenty_random_moments_and_repeated_is_unbroken(tmp_path):
    draw, kills, torn, repeated = random.Random(5), 0, 0, 0
    unbroken = train(tmp_path / "unbroken", **OPTIONS)
    number, ended = 0, False  # of the training; one that ends is followed by another until there were enough kills
    while kills < KILLS or not ended:
        folder = tmp_path / str(number)
        moment = (draw.randint(1, TOUCHES), 0.0) if draw.random() < 0.5 else (0, draw.uniform(0.001, SECONDS))
        process = start(run, folder, OPTIONS, *(moment if kills < KILLS else ()))
        process.join()
        ended = process.exitcode == 0
        if not ended:
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            torn += bool([*folder.glob("checkpoints/*-tmp*")])
            repeated += bool([*folder.glob("checkpoints/*")])
            continue
        with np.load(folder / "params.npz") as stored:
            assert equal([stored[f"arr_{i}"] for i in range(len(stored.files))], unbroken)
        assert rows(folder) == rows(tmp_path / "unbroken")
        number += 1
    assert torn >= 3  # killed while a checkpoint was written
    assert repeated >= KILLS / 2  # and most when there was one to go on from
