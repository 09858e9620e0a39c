"""gpu.sh with a stand-in for Python: what it installs and runs, and that it does not go on without a GPU."""

import pytest
from conftest import NASTY, StandIns


@pytest.fixture
def gpu(stand_ins: StandIns) -> StandIns:
    stand_ins.program("nvidia-smi", "python3")
    (stand_ins.root / ".venv/bin").mkdir(parents=True)
    (stand_ins.root / ".venv/bin/python").symlink_to(stand_ins.programs / "python3")
    return stand_ins


def expected(gpu: StandIns, install: list[str], job: list[str]) -> list[list[str]]:
    return [
        ["python", "-m", "pip", "install", "-q", "-e", *install],
        ["python", "-c", "import jax; jax.devices()"],
        ["python", "-m", "rmjax.launch", *job],
    ]


@pytest.mark.parametrize("cuda", ["12", "13"])
def test_it_installs_and_runs_and_a_dry_run_prints_the_same(gpu, cuda):
    root = str(gpu.root)
    calls = expected(gpu, [f"{root}[cuda]"] if cuda == "13" else [root, "jax[cuda12]"], ["judge", *NASTY])
    gpu.run("gpu.sh", "--cuda", cuda, "judge", *NASTY)
    assert gpu.calls() == calls
    assert gpu.pasted("gpu.sh", f"--cuda={cuda}", "judge", *NASTY) == calls


def test_it_makes_the_environment_where_there_is_none(gpu):
    lines = gpu.run("gpu.sh", "--dry-run", "--venv", "new env", "judge").stdout.splitlines()
    assert lines[0] == "python3 -m venv 'new env'"
    gpu.answer(("version_info", "", 1), ("--version", "Python 3.9.1"))
    done = gpu.run("gpu.sh", "--venv", "new env", "judge", status=2)
    assert done.stderr == "error: python3 is Python 3.9.1: put Python 3.11 or newer first on PATH, or give --venv\n"


def test_it_does_not_go_on_without_a_gpu(gpu):
    gpu.answer(("import jax", "RuntimeError: no GPU", 1))
    assert "error: JAX finds no GPU" in gpu.run("gpu.sh", "judge", status=2).stderr
    assert [c[1] for c in gpu.calls()] == ["-m", "-c"]


def test_the_job_has_its_secrets_in_the_environment(gpu):
    script = gpu.programs / "python3"
    script.write_text('#!/bin/sh\n[ "$2" != rmjax.launch ] || echo "$HF_TOKEN"\n')
    secrets = gpu.secrets("HF_TOKEN=hush\n")
    assert gpu.run("gpu.sh", "--secrets", str(secrets), "judge").stdout == "hush\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no job"),
        (["--cuda", "11", "judge"], "--cuda 11: 12 or 13"),
        (["--seed", "1", "judge"], "--seed: no such option before the job's name"),
        (["judge", "HF_TOKEN=abc"], "the command holds a secret"),
    ],
)
def test_wrong_input_is_one_line_and_calls_nothing(gpu, words, says):
    assert says in gpu.error("gpu.sh", *words)
