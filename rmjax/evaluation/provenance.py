"""run.json: what it takes to repeat a run, and to know what a number was measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import rmjax
from rmjax import json_file

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

    An attempt that was killed has `seconds` null, so `seconds`, the sum over the finished ones, is a lower bound.
    """

    def __init__(
        self, path: Path, *, command: str, config: Mapping[str, Any], data: Mapping[str, str], seed: int, **facts: Any
    ):
        """Writes the file.

        Args:
            path: usually workdir / "run.json"; attempts that it lists are kept.
            command: what the user typed.
            config: the resolved config, JSON values only.
            data: file -> hash of its bytes.
            seed: the run's seed.
            facts: further entries, such as the token contract (length, template, dtype).

        Raises:
            UserError: the file cannot be written, or is there and broken.
        """
        self._path, self._start = path, time.perf_counter()
        earlier = json_file.read(path).get("attempts", []) if path.exists() else []
        devices = jax.devices()
        self._record: dict[str, Any] = {
            "command": command,
            "seed": seed,
            "seconds": 0.0,
            "attempts": [*earlier, {"started": _now(), "seconds": None}],
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

    def finish(self, **facts: Any) -> Mapping[str, Any]:
        """Adds the wall time of this attempt and further entries; returns what the file holds."""
        self._record["attempts"][-1]["seconds"] = round(time.perf_counter() - self._start, 3)
        self._record |= facts
        self._write()
        return self._record

    def _write(self) -> None:
        self._record["seconds"] = round(sum(a["seconds"] or 0.0 for a in self._record["attempts"]), 3)
        json_file.write(self._path, self._record)


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
