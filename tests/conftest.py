"""Before jax starts: CPU only, no network, and what one test process has compiled the others read."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Programs are compiled as they are for users up to machine code; optimising that is a quarter of the suite's time.
# XLA_FLAGS= pytest has it as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and the commands that tests run inherit the folder's name
    _compiled = tempfile.TemporaryDirectory(prefix="rmjax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest
from flax import nnx

nnx.set_graph_mode(False)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights beside the checkout; tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}: put the project beside it to run this test")
    return SHARED
