"""What is compiled while a training runs: counted, and said aloud where a step is compiled again after its first call.

A second compilation of a step costs seconds to minutes, and most often means that a shape, a dtype or a sharding is not
what it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from rmjax.progress import say

EVENT = "/jax/core/compile/backend_compile_duration"  # of every program, one found in the compilation cache too
ARGUMENTS = ("state", "rows", "learning_rate", "seed", "base")  # of a step
SHOWN = 3  # changed arguments that a warning names


class Compiles:
    """Counts the programs that this thread has compiled, or taken from the compilation cache, while it is entered."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        self._taken = (0, 0.0)
        self._thread = threading.get_ident()

    def __enter__(self) -> Compiles:
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def take(self) -> dict[str, float]:
        """Programs, and seconds that they took, since the last call."""
        count, seconds = self._taken
        self._taken = self.count, self.seconds
        return {"perf/compiles": self.count - count, "perf/compile_seconds": self.seconds - seconds}

    def _heard(self, event: str, seconds: float, **_: Any) -> None:
        if event == EVENT and threading.get_ident() == self._thread:
            self.count += 1
            self.seconds += seconds


class Watch:
    """Calls steps. Costs nothing where nothing is compiled: no argument is looked at, no device waited for."""

    def __init__(self, name: str, compiles: Compiles) -> None:
        self._name, self._compiles = name, compiles
        self._known: dict[Callable[..., Any], dict[str, str]] = {}

    def __call__(self, step: Callable[..., Any], number: int, *arguments: Any) -> Any:
        """`step(*arguments)`. Warns on stderr where it is compiled and was called before."""
        before = self._compiles.count, self._compiles.seconds
        out = step(*arguments)
        if step not in self._known:
            self._known[step] = signature(arguments)
        elif self._compiles.count > before[0]:
            now = signature(arguments)
            say(
                f"{self._name}: step {number} was compiled again ({self._compiles.seconds - before[1]:.1f} s): "
                f"{different(self._known[step], now)}",
                style="yellow",
            )
            self._known[step] = now
        return out


def signature(arguments: Sequence[Any]) -> dict[str, str]:
    """What decides which program computes a step: dtype, shape and sharding of every leaf, donated ones too."""
    named = dict(zip(ARGUMENTS, arguments, strict=False))
    leaves, structure = jax.tree.flatten_with_path(named)
    return {"structure": str(structure)} | {_name(path): _kind(x) for path, x in leaves}


def different(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The arguments that changed, in words."""
    names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    changed = sorted(names, key=lambda name: (name == "structure", name))
    if not changed:
        return "nothing in its arguments changed"
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return "; ".join(f"{n} {old.get(n, 'missing')} -> {new.get(n, 'missing')}" for n in changed[:SHOWN]) + more


def _name(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _kind(x: Any) -> str:
    if not hasattr(x, "dtype"):
        return type(x).__name__
    where = getattr(x, "sharding", None)
    spread = f" {where.spec}" if isinstance(where, jax.sharding.NamedSharding) else ""
    return f"{x.dtype}{list(x.shape)}{spread}"
