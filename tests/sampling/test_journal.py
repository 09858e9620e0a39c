"""The output file: resumed after a torn tail and a kill, refused under other settings, whole when the disk is full."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.records import Rollout
from rmjax.sampling.journal import fingerprint, settings_path
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler

ASKED = [Request(f"q{i}", [1 + i, 7, 9], 4) for i in range(6)]
SAMPLING = Sampling(max_new_tokens=12, watch=(3, 5))


def sample(tiny, chat, path, *, asked=ASKED, sampling=SAMPLING, seed=1, **kwargs) -> list[Rollout]:
    return Sampler(*tiny, chat, sampling, seed=seed, quiet=True, **kwargs).run(asked, path=path)


@pytest.fixture(scope="module")
def whole(tiny, chat) -> list[Rollout]:
    return sample(tiny, chat, None)


def same(a: list[Rollout], b: list[Rollout]) -> None:
    for x, y in zip(a, b, strict=True):
        assert (x.id, x.index, x.tokens, x.text, x.finish) == (y.id, y.index, y.tokens, y.text, y.finish)
        np.testing.assert_allclose(x.logps, y.logps, atol=1e-5)
        np.testing.assert_allclose(x.watched, y.watched, atol=1e-5)


def test_file_holds_what_is_returned(tiny, chat, whole, tmp_path):
    path = tmp_path / "deep" / "rollouts.jsonl"
    returned = sample(tiny, chat, path)
    same(returned, whole)
    on_disk = {(r.id, r.index): r for r in jsonl.read(path, Rollout)}
    assert [on_disk[r.id, r.index] for r in returned] == returned and len(on_disk) == len(returned)


def test_resume_after_a_torn_tail(tiny, chat, whole, tmp_path):
    path = tmp_path / "rollouts.jsonl"
    sample(tiny, chat, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + lines[9][:25])
    before = path.read_bytes()
    same(sample(tiny, chat, path, prompts=2, slots=3), whole)
    assert path.read_bytes().startswith(before[: -len(lines[9][:25])])
    assert len({(r.id, r.index) for r in jsonl.read(path, Rollout)}) == len(jsonl.read(path, Rollout)) == len(whole)


def test_a_complete_file_is_not_touched(tiny, chat, whole, tmp_path):
    path = tmp_path / "rollouts.jsonl"
    sample(tiny, chat, path)
    before = path.read_bytes()
    same(sample(tiny, chat, path), whole)
    same(sample(tiny, chat, path, asked=ASKED[2:4]), whole[8:16])
    assert path.read_bytes() == before
    more = [dataclasses.replace(r, samples=5) for r in ASKED]
    assert len(sample(tiny, chat, path, asked=more)) == 30
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"seed": 2}, "seed=1, but now seed=2"),
        ({"sampling": dataclasses.replace(SAMPLING, temperature=0.5)}, "sampling.temperature=1.0"),
        ({"sampling": dataclasses.replace(SAMPLING, stop=("x",))}, "sampling.stop"),
        ({"asked": [dataclasses.replace(ASKED[0], prompt=[2, 2])]}, "request 'q0' was sampled with another prompt"),
    ],
)
def test_other_settings_are_refused(tiny, chat, tmp_path, change, word):
    path = tmp_path / "rollouts.jsonl"
    sample(tiny, chat, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=word):
        sample(tiny, chat, path, **change)
    assert path.read_bytes() == before


def test_other_weights_are_refused(tiny, chat, tmp_path):
    path = tmp_path / "rollouts.jsonl"
    sample(tiny, chat, path)
    model, params = tiny
    other = {"decoder": {**params["decoder"], "norm": params["decoder"]["norm"].at[3].mul(1.0000002)}}
    with pytest.raises(UserError, match="weights="):
        sample((model, other), chat, path)
    settings_path(path).unlink()
    with pytest.raises(UserError, match=r"rollouts.jsonl.run.json, which says how they were made, is missing"):
        sample(tiny, chat, path)


def test_fingerprint_sees_every_bit_and_place():
    x = {"a": jax.numpy.arange(12.0).reshape(3, 4), "b": jax.numpy.ones(5)}
    same = fingerprint(x)
    assert same == fingerprint(jax.tree.map(lambda v: v + 0, x)) and len(same) == 16
    others = [
        {**x, "a": x["a"].at[1, 2].add(1e-6)},
        {**x, "a": x["a"][::-1]},
        {**x, "a": x["a"].reshape(4, 3)[:, ::-1].reshape(3, 4)},
        {"a": x["a"], "c": x["b"]},
        {"a": x["b"], "b": x["a"]},
    ]
    assert len({same, *map(fingerprint, others)}) == 6


def test_full_disk(tiny, chat, whole, tmp_path, monkeypatch):
    path = tmp_path / "rollouts.jsonl"
    append, written = jsonl.Appender.append, []

    def until_full(self, record):
        if len(written) == 7:
            raise UserError(f"{path}: cannot be written (No space left on device)")
        written.append(record)
        append(self, record)

    monkeypatch.setattr(jsonl.Appender, "append", until_full)
    with pytest.raises(UserError, match="No space left"):
        sample(tiny, chat, path)
    assert jsonl.read(path, Rollout) == written
    monkeypatch.setattr(jsonl.Appender, "append", append)
    same(sample(tiny, chat, path), whole)
    assert jsonl.read(path, Rollout)[:7] == written


def test_a_place_that_cannot_be_written(tiny, chat, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/rollouts\.jsonl"):
        sample(tiny, chat, tmp_path / "file" / "rollouts.jsonl")


CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
import jax
from flax import nnx
nnx.set_graph_mode(False)
import conftest
from test_journal import ASKED, SAMPLING, sample
from rmjax import jsonl
tiny = conftest.tiny._get_wrapped_function()()
append = jsonl.Appender.append
count = 0
def slowly(self, record):
    global count
    append(self, record)
    count += 1
    if count == 10:
        print("ready", flush=True)
        import time
        time.sleep(600)
jsonl.Appender.append = slowly
from pathlib import Path
sample(tiny, conftest.Letters(), Path(sys.argv[1]))
"""


def test_resume_after_a_kill(tiny, chat, whole, tmp_path):
    path, here = tmp_path / "rollouts.jsonl", Path(__file__).parent
    arguments = [sys.executable, "-c", CHILD, path, here, here.parents[1]]
    with subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, env={**os.environ}) as child:
        try:
            assert child.stdout.readline().strip() == b"ready"
        finally:
            child.send_signal(signal.SIGKILL)
    before = path.read_bytes()
    assert len(jsonl.read(path, Rollout)) == 10
    assert json.loads(settings_path(path).read_text())["settings"]["seed"] == 1
    same(sample(tiny, chat, path), whole)
    assert path.read_bytes().startswith(before)
    assert len(jsonl.read(path, Rollout)) == len(whole)
