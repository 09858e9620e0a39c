"""What a row of metrics.jsonl says about time and memory."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import pytest
from small_training import TRAIN, train

from rmjax.training import metrics
from rmjax.training.metrics import Speed, Work, memory_peak


def test_rates_and_shares_are_of_the_time_since_the_last_row(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    speed = Speed()
    speed.peak = 50.0

    def spend(what: str, seconds: float) -> None:
        with speed.waiting(what):
            now[0] += seconds

    spend("input", 7.0)  # with the first step, which compiles: not counted
    speed.add(Work(1000, 1000.0))
    assert speed.take() == {}
    for _ in range(2):
        spend("input", 1.0)
        now[0] += 2.0
        speed.add(Work(30, 60.0))
    spend("checkpoint", 4.0)
    want = {"tokens_per_s": 6.0, "input_wait": 0.2, "checkpoint_wait": 0.4, "evaluation_wait": 0.0, "mfu": 0.24}
    assert speed.take() == pytest.approx({f"perf/{name}": value for name, value in want.items()})
    now[0] += 2.0
    speed.add(Work(10, 0.0))
    assert speed.take()["perf/checkpoint_wait"] == 0.0


def test_every_row_says_what_was_waited_for_compiled_and_held(tmp_path):
    train(tmp_path, log_every=1, eval_every=5, eval_share=0.3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/loss" in row] == [5, 10, 14]
    rows = {row["step"]: row for row in rows if "train/loss" in row}
    assert list(rows) == list(range(1, TRAIN.steps + 1))
    waited = lambda what: [n for n, row in rows.items() if row.get(f"perf/{what}_wait")]
    assert {2, 3, 7} <= set(waited("input"))
    assert waited("evaluation") == [6, 11]  # in the rows after them
    assert set(waited("checkpoint")) >= {5, 6, 9, 13}
    assert not {2, 3, 4, 7, 8, 12, 14} & set(waited("checkpoint"))
    assert all(row["perf/compiles"] >= 0 and row["perf/compile_seconds"] >= 0 for row in rows.values())
    peaks = [row["perf/process_memory_peak"] for row in rows.values()]  # a CPU says nothing of its own
    assert peaks == sorted(peaks)
    page = os.sysconf("SC_PAGE_SIZE")
    assert int(Path("/proc/self/statm").read_text().split()[1]) * page < 1.05 * peaks[-1]
    assert peaks[-1] < os.sysconf("SC_PHYS_PAGES") * page


def test_memory_is_the_fullest_device_s_where_the_backend_says(monkeypatch):
    @dataclasses.dataclass
    class Device:
        peak: int

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak, "bytes_in_use": 1}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(5), Device(7)])
    assert memory_peak() == {"perf/device_memory_peak": 7}
