"""run.json: what it takes to repeat a run, and to know what a number was measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import rmjax
from rmjax import distributed, json_file
from rmjax.errors import UserError
from rmjax.evaluation.ledger import Prices, Spent
from rmjax.progress import TALLY

BEAT = 15.0  # seconds between writings while tokens are counted
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
)


class Provenance:
    """Writes run.json when a run starts and again when it ends; a continued run adds an attempt.

    `spent` is the run's ledger (`evaluation/ledger.py`): tokens and seconds of all attempts, the labels once, for an
    attempt that goes on does not buy them again. While tokens are sampled or trained on, the file is written every
    `BEAT` seconds. An attempt that was killed has `seconds` null and in `at_least` what it was known to have spent, so
    that `seconds`, the sum over the finished ones, is a lower bound, and so is `spent`, which says so.
    """

    def __init__(
        self,
        path: Path,
        *,
        command: str,
        config: Mapping[str, Any],
        data: Mapping[str, str],
        seed: int,
        labels: Mapping[str, int] | None = None,
        **facts: Any,
    ):
        """Writes the file.

        Args:
            path: usually workdir / "run.json"; attempts that it lists are kept.
            command: what the user typed.
            config: the resolved config, JSON values only.
            data: file -> hash of its bytes.
            seed: the run's seed.
            labels: file (a key of `data`), or who labels -> labelled pairs of it that the run reads; None: not known.
            facts: further entries, such as the token contract (length, template, dtype).

        Raises:
            UserError: the file cannot be written, or is there and broken; a broken price list.
        """
        self._path, self._start, self._prices = path, time.perf_counter(), Prices.usual()
        before = distributed.first(lambda: json_file.read(path) if path.exists() else {})
        if not isinstance(before, dict):
            raise UserError(f"{path}: not a run's record; remove it, or give another workdir")
        devices = jax.devices()
        self._labels = before.get("spent", {}).get("labels") if labels is None else dict(labels)
        self._tokens = TALLY.sampled, TALLY.trained
        self._record: dict[str, Any] = {
            "command": command,
            "seed": seed,
            "seconds": 0.0,
            "attempts": [*before.get("attempts", []), {"started": _now(), "seconds": None}],
            "device": {
                "platform": devices[0].platform,
                "kind": devices[0].device_kind,
                "count": len(devices),
                "cores": os.cpu_count(),
                "processes": jax.process_count(),
            },
            "data": dict(data),
            "versions": versions(),
            **facts,
            "config": dict(config),
        }
        self._write()
        TALLY.watcher = weakref.WeakMethod(self._beat)

    def bought(self, labels: Mapping[str, int]) -> None:
        """Who labels -> labels bought so far, in all attempts; replaces what was said of them before."""
        self._labels = {**(self._labels or {}), **labels}
        self._write()

    def finish(self, **facts: Any) -> Mapping[str, Any]:
        """Adds the wall time of this attempt and further entries; returns what the file holds."""
        attempt = self._record["attempts"][-1]
        attempt |= self._so_far()
        attempt.pop("at_least", None)
        self._record |= facts
        self._write(running=False)
        if TALLY.watcher == weakref.WeakMethod(self._beat):
            TALLY.watcher = None
        return self._record

    def _so_far(self) -> dict[str, Any]:
        sampled, trained = (now - then for now, then in zip((TALLY.sampled, TALLY.trained), self._tokens, strict=True))
        seconds = round(time.perf_counter() - self._start, 3)
        return {"seconds": seconds, "tokens_sampled": sampled, "tokens_trained": trained}

    def _beat(self) -> None:
        if time.perf_counter() - self._written > BEAT:
            self._write()

    def _write(self, running: bool = True) -> None:
        attempts = self._record["attempts"]
        if running:
            attempts[-1]["at_least"] = self._so_far()
        self._written = time.perf_counter()
        self._record["seconds"] = round(sum(a["seconds"] or 0.0 for a in attempts), 3)
        self._record["spent"] = spent(attempts, self._labels).to_json(self._prices)
        json_file.write(self._path, self._record)


def spent(attempts: Sequence[Mapping[str, Any]], labels: Mapping[str, int] | None) -> Spent:
    """The sum of a run's attempts; attempts of versions without ledgers make tokens unknown."""
    known = [a if a["seconds"] is not None else a.get("at_least", {}) for a in attempts]
    add = lambda name: None if any(name not in a for a in known) else sum(a[name] for a in known)
    return Spent(
        labels=labels,
        tokens_sampled=add("tokens_sampled"),
        tokens_trained=add("tokens_trained"),
        seconds=round(sum(a.get("seconds") or 0.0 for a in known), 3),
        at_least=any(a["seconds"] is None for a in attempts),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, of rmjax (with its commit in a checkout) and of the packages that it computes with."""
    out = {"python": platform.python_version(), "rmjax": _own_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def _own_version() -> str:
    try:
        version = importlib.metadata.version("rmjax")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    root = Path(rmjax.__file__).parents[1]
    if not (root / ".git").exists():
        return version
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or none that trusts this folder
        return f"{version}, commit unknown"
    return f"{version}, commit {commit}"
