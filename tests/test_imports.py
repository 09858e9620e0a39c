"""Imports point one way, and files stay small."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "rmjax"
ORDER = (
    "errors",
    "distributed",
    "bounds",
    "statistics",
    "records",
    "decoding",
    "jsonl",
    "json_file",
    "progress",
    "sharding",
    "compiler",
    "data",
    "models",
    "objectives",
    "training",
    "sampling",
    "judging",
    "refine",
    "evaluation",
    "aot",
    "worlds",
    "oracles",
    "methods",
    "config",
    "jobs",
    "launch",
)
FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path):
    part = path.relative_to(SRC).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    level = ORDER.index(part)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "rmjax" else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            if name.startswith("rmjax."):
                assert ORDER.index(name.split(".")[1]) <= level, f"{path}: {name}"


def test_files_are_small():
    sizes = {p: len(p.read_text().splitlines()) for p in FILES}
    assert max(sizes.values()) <= 400, max(sizes, key=sizes.get)
    full = sorted(n for n in sizes.values() if n)
    assert full[len(full) // 2] <= 150
