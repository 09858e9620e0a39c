"""A step that is compiled again is said aloud, with what changed; one that is not costs and says nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from small_training import train

from rmjax.training import loop
from rmjax.training.compiles import Compiles, Watch


@jax.jit
def step(state, rows, rate):
    return jax.tree.map(lambda x: x + rate * jnp.sum(rows["tokens"]), state)


def test_what_changed_is_named(capsys):
    state, tokens = {"w": jnp.ones(3)}, np.zeros((2, 4), np.int32)
    with Compiles() as compiles:
        watch = Watch("SFT", compiles)
        watch(step, 1, state, {"tokens": tokens}, 0.1)
        assert compiles.take()["perf/compiles"] > 0
        watch(step, 2, state, {"tokens": tokens + 1}, 0.2)
        assert compiles.take() == {"perf/compiles": 0, "perf/compile_seconds": 0.0}
        assert capsys.readouterr().err == ""
        watch(step, 3, state, {"tokens": np.zeros((2, 8), np.int32)}, 0.2)
        error = capsys.readouterr().err
        assert error.startswith("SFT: step 3 was compiled again (")
        assert error.endswith(" s): rows.tokens int32[2, 4] -> int32[2, 8]\n")
        watch(step, 4, {"w": jnp.ones(3, jnp.bfloat16)}, {"tokens": np.zeros((2, 8), np.int32)}, 0.2)
        assert "step 4 was compiled again" in (error := capsys.readouterr().err)
        assert error.endswith(": state.w float32[3] -> bfloat16[3]\n")
        watch(step, 5, {"w": jnp.ones(3), "m": jnp.ones(1)}, {"tokens": np.zeros((2, 8), np.int32)}, 0.2)
        assert "state.m missing -> float32[1]; state.w bfloat16[3] -> float32[3]" in capsys.readouterr().err
    count = compiles.count
    step({"w": jnp.ones(5)}, {"tokens": tokens}, 0.1)
    assert compiles.count == count  # no longer entered


def test_a_training_whose_rows_change_says_so_and_counts_it(tmp_path, capsys, monkeypatch):
    train(tmp_path / "usual")
    assert "compiled again" not in capsys.readouterr().err
    usual, calls = loop.place_rows, []

    def place(rows, mesh):
        calls.append(rows)
        wide = jax.tree.map(lambda x: np.concatenate([x, np.full_like(x, -1)]), rows)
        return usual(wide if len(calls) == 8 else rows, mesh)

    monkeypatch.setattr(loop, "place_rows", place)
    train(tmp_path / "wide", log_every=1)
    error = capsys.readouterr().err
    assert error.count("small: step 8 was compiled again (") == error.count("compiled again") == 1
    assert "rows.group int32[4, " in error
    lines = [json.loads(x) for x in (tmp_path / "wide" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if row["perf/compiles"] and row["step"] > 1] == [7]  # the last row before it
