"""kill -9 at any stage, then the same command: the same final numbers as an unbroken run, nothing lost or doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmjax import jsonl
from rmjax.records import Judgment


@pytest.mark.parametrize("moment", ["sft/metrics.jsonl", "sample-1", "refine-1/graded.jsonl", "evaluate"])
def test_killed_run_ends_as_an_unbroken_one(finished, flags, tmp_path, moment):
    work = tmp_path / "killed"
    command = [sys.executable, "-m", "rmjax.launch", "gfriend", *flags, "--workdir", str(work)]
    environment = {**os.environ, "XLA_FLAGS": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time() + 240
    while not (work / moment).exists():
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        assert time.time() < deadline, f"{moment} never appeared"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    unbroken = Path(finished.workdir)
    for name in ("sample-1/judgments.jsonl", "refine-1/groups.jsonl", "evaluate/gfriend.scores.jsonl"):
        assert (work / name).read_bytes() == (unbroken / name).read_bytes(), name
    rows = [
        [{**r, "seconds": 0} for r in json.loads((p / "summary.json").read_text())["rows"]] for p in (work, unbroken)
    ]
    assert rows[0] == rows[1]
    keys = [(j.item, j.slot, j.index) for j in jsonl.read(work / "sample-1" / "judgments.jsonl", Judgment)]
    assert len(keys) == len(set(keys)) == 8 * 4
