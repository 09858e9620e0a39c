"""The tensors of a directory, by name, in one safetensors file or in several behind an index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rmjax import json_file
from rmjax.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class TensorFiles(contextlib.AbstractContextManager):
    """Reads tensors one at a time; files are opened when first needed.

    Raises:
      UserError: here and in every method, for what is missing or cannot be read, by file and tensor.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        self._open: dict[str, Any] = {}
        self._listing = INDEX if (path / INDEX).is_file() else SINGLE  # the file that says what there is
        if self._listing == INDEX:
            self._where = dict(read_object(path / INDEX).get("weight_map", {}))
        elif (path / SINGLE).is_file():
            self._where = dict.fromkeys(self._handle(SINGLE).keys(), SINGLE)
        else:
            other = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in path.glob(kind))
            hint = f"it has {other[0]}: save it again as safetensors" if other else "is the download complete?"
            raise UserError(f"{path}: no weights (neither {SINGLE} nor {INDEX}); {hint}")
        self.names = frozenset(self._where)

    def file(self, name: str) -> Path:
        """The file that holds tensor `name`, or would list it."""
        return self._path / self._where.get(name, self._listing)

    def get(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Tensor `name` in its own dtype; it must have `shape`."""
        if name not in self.names:
            raise UserError(
                f"{self.file(name)}: tensor {name!r} of shape {list(shape)} is missing; "
                "use the config.json saved with these weights, or complete the download"
            )
        try:
            value = self._handle(self._where[name]).get_tensor(name)
        except SafetensorError as e:
            raise UserError(f"{self.file(name)}: tensor {name!r} cannot be read ({e}); download the file again") from e
        if value.shape != shape:
            raise UserError(
                f"{self.file(name)}: tensor {name!r} has shape {list(value.shape)}, config.json asks for "
                f"{list(shape)}; use the config.json saved with these weights"
            )
        return value

    def _handle(self, file: str) -> Any:
        if file not in self._open:
            if not (self._path / file).is_file():
                raise UserError(f"{self._path / file}: missing, but {INDEX} names it; complete the download")
            try:
                self._open[file] = self._stack.enter_context(safe_open(self._path / file, framework="numpy"))
            except (SafetensorError, OSError) as e:
                raise UserError(f"{self._path / file}: not a readable safetensors file ({e}); download it again") from e
        return self._open[file]

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def write_tensors(
    path: Path | None, sizes: Sequence[tuple[str, int]], get: Callable[[str], np.ndarray], max_shard: int
) -> None:
    """Writes one file, or several of at most `max_shard` bytes with an index.

    Args:
      path: the directory, or None to call `get` for every tensor and write nothing (all processes must gather).
      sizes: names and bytes, in the order to write them.
      get: a tensor by name; at most one file's tensors are held at once.
      max_shard: bytes; a larger tensor gets a file of its own.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes:
        if shards[-1] and used + size > max_shard:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    index: dict[str, str] = {}
    for n, names in enumerate(shards):
        file = SINGLE if len(shards) == 1 else f"model-{n + 1:05}-of-{len(shards):05}.safetensors"
        index |= dict.fromkeys(names, file)
        tensors = {name: get(name) for name in names}
        if path is not None:
            # save_file puts a temporary file in its place, which only its owner may read: keep the usual mode.
            (path / file).touch()
            mode = (path / file).stat().st_mode
            save_file(tensors, path / file, metadata={"format": "pt"})
            (path / file).chmod(mode)
    if path is not None and len(shards) > 1:
        json_file.write(path / INDEX, {"metadata": {"total_size": sum(size for _, size in sizes)}, "weight_map": index})


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model directory; UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path}: missing; a model directory holds config.json and {SINGLE}")
    value = json_file.read(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; download it again")
    return value
