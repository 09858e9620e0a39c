"""Finds a config, applies typed overrides (tyro), saves the resolved config.

A config is a Python file with `get_config()` that returns a job: a frozen dataclass with `run()`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from rmjax.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


def names() -> Mapping[str, str]:
    """Config name -> the first line of its file's docstring."""
    found = {}
    for path in sorted(CONFIGS.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        first = path.read_text(encoding="utf-8").lstrip().split("\n", 1)[0]
        found[path.stem] = first.strip('" ').rstrip(".")
    return found


def in_world(name: str, line: str) -> bool:
    """Whether a config of this name and line is a study of a controlled world; nothing is imported, which is slow."""
    return name.startswith("study_") or "controlled world" in line


def load(name: str) -> Any:
    """The job of a config by name (`quickstart`) or file (`my/study.py`).

    Raises:
      UserError: there is no such config, or the file has no get_config().
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: no such config file")
        spec = importlib.util.spec_from_file_location(f"rmjax_config_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses of the file look their annotations up there
        try:
            spec.loader.exec_module(module)
        except (ImportError, SyntaxError, NameError, AttributeError, TypeError) as e:
            raise UserError(f"{name}: {type(e).__name__}: {e}; mend the config file") from e
    elif name in names():
        module = importlib.import_module(f"configs.{name}")
    else:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4) or sorted(names())
        raise UserError(f"no config named {name!r}; did you mean {', '.join(near)}? (--help lists all)")
    if not hasattr(module, "get_config"):
        raise UserError(f"{name}: has no get_config() that returns a job")
    try:
        job = module.get_config()
    except (NameError, AttributeError, TypeError, KeyError, ValueError) as e:
        raise UserError(f"{name}: get_config(): {type(e).__name__}: {e}; mend the config file") from e
    if not dataclasses.is_dataclass(job) or not hasattr(job, "run"):
        raise UserError(f"{name}: get_config() returns {type(job).__name__}, not a job (a frozen dataclass with run())")
    return job


def override(job: Any, args: Sequence[str], *, name: str) -> Any:
    """Applies `--field value` overrides; a wrong name or type prints the nearest right names and exits with code 2."""
    return tyro.cli(
        type(job), default=job, args=list(args), prog=f"python -m rmjax.launch {name}", description=type(job).__doc__
    )


def to_json(value: Any) -> Any:
    """A config as JSON; every dataclass carries its class path."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    return str(value) if isinstance(value, Path) else value
