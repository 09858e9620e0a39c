"""slurm.sh with stand-ins for Slurm's programs: what is submitted, what each process is told, requeueing."""

import json
import signal
import subprocess

import pytest
from conftest import NASTY, StandIns

JOB = ("python", "-m", "rmjax.launch", "gfriend")
IN_JOB = {"SLURM_JOB_ID": "40007", "SLURM_JOB_NODELIST": "node[3-4]"}


@pytest.fixture
def slurm(stand_ins: StandIns) -> StandIns:
    stand_ins.program("sbatch", "scontrol", "srun", "squeue", "scancel")
    (stand_ins.root / ".venv/bin").mkdir(parents=True)
    python = stand_ins.root / ".venv/bin/python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return stand_ins


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], ["--job-name=rmjax", "--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=8"]),
        (
            [
                "--name=judge",
                "--nodes",
                "2",
                "--gpus",
                "4",
                "--per-gpu",
                "--cpus",
                "12",
                "--time",
                "1-00:00:00",
                "--partition",
                "gpu",
                "--account",
                "mine",
                "--qos",
                "low",
            ],
            [
                "--job-name=judge",
                "--nodes=2",
                "--ntasks-per-node=4",
                "--gpus-per-node=4",
                "--cpus-per-task=12",
                "--time=1-00:00:00",
                "--partition=gpu",
                "--account=mine",
                "--qos=low",
            ],
        ),
    ],
)
def test_submit_calls_sbatch_and_a_dry_run_prints_the_same(slurm, words, options):
    slurm.run("slurm.sh", "submit", *words, *JOB, *NASTY)
    calls = slurm.calls()
    script = str(slurm.root / "launch/slurm.sh")
    assert calls == [["sbatch", "--export=ALL", *options, script, "job", *JOB, *NASTY]]
    assert slurm.pasted("slurm.sh", "submit", *words, *JOB, *NASTY) == calls


def test_a_job_tells_every_process_where_the_others_are(slurm):
    slurm.answer(("^scontrol show", "node3\nnode4"))
    done = slurm.run("slurm.sh", "job", *JOB, *NASTY, env=IN_JOB)
    assert "coordinator node3:20007" in done.stderr
    script = str(slurm.root / "launch/slurm.sh")
    assert slurm.calls() == [
        ["scontrol", "show", "hostnames", "node[3-4]"],
        ["srun", "--kill-on-bad-exit=1", "bash", script, "process", *JOB, *NASTY],
    ]


@pytest.mark.parametrize("per_gpu", ["", "1"])
def test_a_process_knows_its_number_and_its_secrets(slurm, per_gpu):
    secrets = slurm.secrets("HF_TOKEN=hush $(id)\n")
    env = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "JAX_COORDINATOR_ADDRESS": "node3:20007"}
    ours = {"RMJAX_SECRETS": str(secrets), "RMJAX_VENV": str(slurm.root / ".venv"), "RMJAX_PER_GPU": per_gpu}
    code = (
        'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID ${JAX_LOCAL_DEVICE_IDS-all} $HF_TOKEN"; pwd'
    )
    done = slurm.run("slurm.sh", "process", "sh", "-c", code, env=env | ours)
    assert done.stdout == f"node3:20007 8 5 {'1' if per_gpu else 'all'} hush $(id)\n{slurm.root}\n"


def test_a_batch_job_runs_from_a_copy_of_the_script(slurm):
    """Slurm keeps one; the checkout is the folder of submission."""
    copy = slurm.folder / "slurm_script"
    copy.write_bytes((slurm.root / "launch/slurm.sh").read_bytes())
    env = slurm.environment | IN_JOB | {"SLURM_SUBMIT_DIR": str(slurm.root)}
    subprocess.run(["bash", str(copy), "job", *JOB], env=env, check=True, capture_output=True)
    assert slurm.calls()[1][3] == str(slurm.root / "launch/slurm.sh")


def test_a_job_that_is_told_to_end_saves_and_goes_back_to_the_queue(slurm):
    srun = slurm.programs / "srun"
    srun.write_text("#!/bin/bash\ntrap 'echo saved; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    with subprocess.Popen(
        slurm.command("slurm.sh", "job", *JOB), env=slurm.environment | IN_JOB, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
        assert process.wait(20) == 0
    assert slurm.calls()[-1] == ["scontrol", "requeue", "40007"]


def test_a_job_that_fails_is_not_requeued(slurm):
    slurm.answer(("^srun", "boom", 9))
    slurm.run("slurm.sh", "job", *JOB, env=IN_JOB, status=9)
    assert [c[:2] for c in slurm.calls()] == [["scontrol", "show"], ["srun", "--kill-on-bad-exit=1"]]


def test_secrets_go_by_file_only(slurm):
    secrets = slurm.secrets("HF_TOKEN=hush\n")
    done = slurm.run("slurm.sh", "submit", "--dry-run", "--secrets", str(secrets), *JOB)
    assert f"'RMJAX_SECRETS={secrets}'" in done.stdout and "hush" not in done.stdout
    slurm.run("slurm.sh", "submit", "--secrets", str(secrets), *JOB)
    assert "hush" not in json.dumps(slurm.calls())


def test_status_and_cancel(slurm):
    for words, call in ((["status", "7"], ["squeue", "--job", "7"]), (["cancel", "7"], ["scancel", "7"])):
        slurm.run("slurm.sh", *words)
        assert slurm.calls() == [call]
        assert slurm.run("slurm.sh", *words, "--dry-run").stdout == " ".join(call) + "\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["start"], "start: no such subcommand"),
        (["submit"], "submit needs a command"),
        (["submit", "--nodes", "two", *JOB], "--nodes two: a number"),
        (["submit", "--node=2", *JOB], "--node=2: no such option"),
        (["submit", "--time", "soon", *JOB], "--time soon: a time"),
        (["submit", "--partition", "a b", *JOB], "--partition 'a b'"),
        (["submit", "--venv", "none", *JOB], "none has no python"),
        (["submit", "python", "--key", "WANDB_API_KEY=x"], "the command holds a secret"),
        (["cancel", "mine"], "JOB mine"),
        (["status"], "JOB"),
        (["job", *JOB], "use launch/slurm.sh submit"),
    ],
)
def test_wrong_input_is_one_line_and_calls_nothing(slurm, words, says):
    assert says in slurm.error("slurm.sh", *words)
