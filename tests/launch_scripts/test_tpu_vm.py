"""tpu_vm.sh with a gcloud that records its calls: the calls, quoting, secrets, what resume does after what it sees."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import NASTY, StandIns, remote

SETTINGS = {
    "TPU_NAME": "judge",
    "TPU_PROJECT": "my-project",
    "TPU_ZONE": "us-west4-a",
    "TPU_TYPE": "v5litepod-16",
    "TPU_BUCKET": "my-bucket",
}
AT = ["judge", "--project=my-project", "--zone=us-west4-a"]
NODE = ["gcloud", "compute", "tpus", "tpu-vm"]
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]
ALL = [*NODE, "ssh", *AT, "--worker=all"]
JOB = ("python", "-m", "rmjax.launch", "gfriend", "--workdir", "/mnt/bucket/runs/mine")
DESCRIBE = [*NODE, "describe", *AT, "--format=value(state)"]
CREATE = [*NODE, "create", *AT, "--version=v2-alpha-tpuv5-lite", "--accelerator-type=v5litepod-16"]
DELETE = [*NODE, "delete", *AT, "--quiet"]
UNPACK = [*ALL, "--command=rm -rf rmjax && mkdir rmjax && tar -xzf rmjax.tar.gz -C rmjax"]
INSTALL = [*ALL, "--command=bash rmjax/launch/worker.sh install my-bucket"]


@pytest.fixture
def tpu(stand_ins: StandIns) -> StandIns:
    stand_ins.program("gcloud", "tar")
    stand_ins.environment |= SETTINGS
    return stand_ins


def resume(tpu: StandIns, *words: str, status: int = 0) -> tuple[list[str], str]:
    """What resume did: its calls by their verb, and of ssh by what worker.sh was told; and what it said."""
    done = tpu.run("tpu_vm.sh", "resume", "--poll", "0.01", *words, *JOB, status=status)
    verbs = []
    for call in tpu.calls():
        if call[0] == "tar":
            verbs.append("tar")
        elif call[4] == "ssh":
            told = remote(call).split("worker.sh ")
            verbs.append("ask" if "else echo" in remote(call) else told[1].split()[0] if len(told) > 1 else "unpack")
        else:
            verbs.append(call[4] + (" queue" if call[3] == "queued-resources" else ""))
    return verbs, done.stderr


SET_UP = ["tar", "scp", "unpack", "install", "start"]


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (["create"], [CREATE]),
        (["create", "--spot"], [[*CREATE, "--spot"]]),
        (["create", "--reserved", "--create-flag=--network=mine"], [[*CREATE, "--reserved", "--network=mine"]]),
        (
            ["create", "--queued", "--spot", "--valid-for", "6h", "--type=v6e-8"],
            [
                [
                    *QUEUE,
                    "create",
                    *AT,
                    "--node-id=judge",
                    "--runtime-version=v2-alpha-tpuv6e",
                    "--valid-until-duration=6h",
                    "--accelerator-type=v6e-8",
                    "--spot",
                ],
                [*QUEUE, "describe", *AT, "--format=value(state.state)"],
            ],
        ),
        (["install"], [INSTALL]),
        (["install", "--ssh-flag=--internal-ip"], [[*INSTALL[:-1], "--internal-ip", INSTALL[-1]]]),
        (["status"], [DESCRIBE, [*ALL, "--command=bash rmjax/launch/worker.sh state"]]),
        (["logs"], [[*NODE, "ssh", *AT, "--worker=0", "--command=bash rmjax/launch/worker.sh log 100"]]),
        (
            ["logs", "--worker", "3", "--follow"],
            [[*NODE, "ssh", *AT, "--worker=3", "--command=bash rmjax/launch/worker.sh log 100 follow"]],
        ),
        (["stop"], [[*ALL, "--command=bash rmjax/launch/worker.sh stop"]]),
        (["delete"], [DELETE]),
        (["delete", "--queued"], [[*QUEUE, "delete", *AT, "--force", "--quiet"]]),
    ],
)
def test_each_subcommand_calls_gcloud_as_documented_and_a_dry_run_prints_the_same(tpu, words, calls):
    tpu.answer(("tpu-vm describe", "READY"), ("queued-resources describe", "ACTIVE"))
    tpu.run("tpu_vm.sh", *words)
    assert tpu.calls() == calls
    assert tpu.pasted("tpu_vm.sh", *words) == calls


def test_copy_packs_the_code_and_nothing_else(tpu):
    archive = str(tpu.root / "build/launch/judge.tar.gz")
    calls = [
        [
            "tar",
            "-C",
            str(tpu.root),
            "--exclude=__pycache__",
            "-czf",
            archive,
            "LICENSE",
            "README.md",
            "pyproject.toml",
            "setup.py",
            "configs",
            "launch",
            "rmjax",
        ],
        [*NODE, "scp", archive, "judge:rmjax.tar.gz", *AT[1:], "--worker=all"],
        UNPACK,
    ]
    tpu.run("tpu_vm.sh", "copy")
    assert tpu.calls() == calls
    assert tpu.pasted("tpu_vm.sh", "copy") == calls


def test_a_failed_step_ends_copy(tpu):
    tpu.answer(("^tar", "no space left", 1))
    assert "no space left" in tpu.run("tpu_vm.sh", "copy", status=1).stderr
    assert [c[0] for c in tpu.calls()] == ["tar"]


def test_arguments_reach_the_job_as_they_were_given(tpu):
    """Through the shell that reads gcloud's --command on the host, and through the dry run's lines."""
    words = ["python", "-m", "rmjax.launch", *NASTY]
    tpu.run("tpu_vm.sh", "run", "--", *words)
    [call] = tpu.calls()
    assert tpu.pasted("tpu_vm.sh", "run", *words) == [call]
    home = tpu.folder / "home"
    (home / "rmjax").symlink_to(tpu.root)
    tpu.program("python")
    sent = " ".join(remote(call).split(" "))  # what gcloud and ssh do with it
    for _ in range(2):  # ssh may repeat it: the job starts once
        subprocess.run(["sh", "-c", sent], cwd=home, env=tpu.environment, check=True)
    status = home / "rmjax-job" / "status"
    while not status.exists():
        time.sleep(0.02)
    assert status.read_text() == "exit 0\n"
    assert tpu.calls()[0] == words


def test_secrets_go_by_file_only(tpu):
    path = tpu.secrets("# mine\nHF_TOKEN=hush-$(id)\nWANDB_API_KEY=hush two\n")
    tpu.run("tpu_vm.sh", "run", "--secrets", str(path), *JOB)
    calls = tpu.calls()
    assert calls[0] == [*NODE, "scp", str(path), "judge:rmjax-secrets", *AT[1:], "--worker=all"]
    assert len(calls) == 2 and "hush" not in json.dumps(calls)
    assert tpu.pasted("tpu_vm.sh", "run", "--secrets", str(path), *JOB) == calls


def test_resume_after_a_preemption_does_what_its_dry_run_prints(tpu):
    path = tpu.secrets("HF_TOKEN=hush\n")
    words = ["--spot", "--secrets", str(path), *JOB]
    tpu.answer(
        ("describe", "PREEMPTED"), ("describe", "READY"), ("ssh.*state", "rmjax-job none"), ("describe", "READY")
    )
    tpu.answer(("ssh.*state", "rmjax-job exit 0\nrmjax-job exit 0"))
    tpu.run("tpu_vm.sh", "resume", *words)
    calls = tpu.calls()
    assert [c for c in calls if c[0] == "gcloud"][:3] == [DESCRIBE, DELETE, [*CREATE, "--spot"]]
    assert UNPACK in calls and INSTALL in calls
    assert tpu.pasted("tpu_vm.sh", "resume", *words) == calls
    assert "hush" not in json.dumps(calls)


def test_resume_waits_while_the_job_runs(tpu):
    tpu.answer(*[("describe", "READY")] * 3, ("ssh", "rmjax-job running\nrmjax-job running"))
    tpu.answer(("ssh", "rmjax-job running\nrmjax-job exit 0"), ("ssh", "rmjax-job exit 0\nrmjax-job exit 0"))
    verbs, said = resume(tpu)
    assert verbs == ["describe", "ask"] * 3
    assert "has finished" in said


def test_resume_creates_what_is_missing_and_waits_for_capacity(tpu):
    gone = ("describe", "ERROR: (gcloud) NOT_FOUND: Resource 'judge' was not found", 1)
    tpu.answer(gone, ("create", "ERROR: There is no more capacity in the zone", 1), gone, ("describe", "CREATING"))
    tpu.answer(("describe", "READY"), ("ssh", "rmjax-job none"), ("describe", "READY"), ("worker.sh state", ""))
    tpu.answer(("describe", "READY"), ("worker.sh state", "rmjax-job exit 0"))
    verbs, said = resume(tpu)
    assert verbs[:6] == ["describe", "create", "describe", "create", "describe", "describe"]
    assert verbs[6:] == ["ask", *SET_UP, "describe", "ask", "describe", "ask"]
    assert "no capacity" in said and "do not answer" in said


def test_resume_ends_where_create_is_refused(tpu):
    tpu.answer(("describe", "NOT_FOUND", 1), ("create", "ERROR: PERMISSION_DENIED", 1))
    verbs, said = resume(tpu, status=1)
    assert verbs == ["describe", "create"]
    assert "PERMISSION_DENIED" in said


@pytest.mark.parametrize(
    ("queue", "verbs"),
    [
        (["SUSPENDED", "ACTIVE"], ["describe queue", "delete queue", "create queue", "describe queue"]),
        (["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], ["describe queue"] * 3),
        (["", "WAITING_FOR_RESOURCES", "ACTIVE"], ["describe queue", "create queue"] + ["describe queue"] * 2),
    ],
)
def test_resume_with_a_queue_deletes_only_requests_that_are_over(tpu, queue, verbs):
    tpu.answer(("tpu-vm describe", "NOT_FOUND", 1))
    tpu.answer(*[("queued.* describe", q or "NOT_FOUND", int(not q)) for q in queue])
    tpu.answer(("describe", "READY"), ("ssh", "rmjax-job exit 0"))
    assert resume(tpu, "--queued")[0] == ["describe", *verbs, "describe", "ask"]


def test_a_job_that_failed_is_reported_and_not_started_again(tpu):
    tpu.answer(*[("describe", "READY"), ("ssh", "rmjax-job exit 1\nrmjax-job running")] * 2)
    tpu.answer(("worker.sh log 20", "ValueError: rows"))
    verbs, said = resume(tpu, status=2)
    assert verbs == ["describe", "ask"] * 2 + ["log"]
    assert "ValueError: rows" in said and "error: the job on judge ended (exit 1, running)" in said


@pytest.mark.parametrize("sign", ["exit 1", "interrupted", "lost"])
def test_a_job_that_ends_just_before_a_preemption_goes_on_afterwards(tpu, sign):
    tpu.answer(("describe", "READY"), ("ssh", f"rmjax-job {sign}"), ("describe", "PREEMPTED"), ("describe", "READY"))
    tpu.answer(("worker.sh state", "rmjax-job none"), ("describe", "READY"), ("worker.sh state", "rmjax-job exit 0"))
    verbs, _ = resume(tpu)
    assert verbs == ["describe", "ask", "describe", "delete", "create", "describe", "ask", *SET_UP, "describe", "ask"]


def test_a_job_goes_on_after_maintenance_of_the_hosts(tpu):
    tpu.answer(*[("describe", "READY"), ("worker.sh state", "rmjax-job interrupted\nrmjax-job lost")] * 2)
    tpu.answer(("describe", "READY"), ("worker.sh state", "rmjax-job exit 0"))
    verbs, said = resume(tpu)
    assert verbs == ["describe", "ask"] * 2 + ["install", "start", "describe", "ask"]
    assert "restarted" in said


def test_a_job_that_was_stopped_stays_stopped(tpu):
    tpu.answer(*[("describe", "READY"), ("worker.sh state", "rmjax-job stopped")] * 2)
    assert "ended (stopped)" in resume(tpu, status=2)[1]


def test_resume_leaves_another_command_alone(tpu):
    tpu.answer(("describe", "READY"), ("ssh", "rmjax-job other"))
    verbs, said = resume(tpu, status=2)
    assert verbs == ["describe", "ask"] and "another command" in said


def test_resume_gives_up_on_a_gcloud_that_tells_nothing(tpu):
    tpu.answer(*[("describe", "ERROR: you do not have an active account", 1)] * 20)
    verbs, said = resume(tpu, status=2)
    assert verbs == ["describe"] * 20 and "active account" in said.splitlines()[-1]


def test_status_says_what_gcloud_says(tpu):
    tpu.answer(("describe", "NOT_FOUND", 1))
    assert tpu.run("tpu_vm.sh", "status").stdout == "judge: MISSING\n"
    tpu.answer(("describe", "ERROR: no account", 1))
    assert tpu.run("tpu_vm.sh", "status", status=2).stderr == "error: gcloud: ERROR: no account\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["creat"], "creat: no such subcommand"),
        (["create", "--spott"], "--spott: no such option"),
        (["create", "--zone"], "--zone needs a value"),
        (["create", "--zone", "us-west4"], "--zone us-west4: a zone"),
        (["create", "--name", "a; rm -rf ~"], "--name 'a; rm -rf ~': lower-case"),
        (["create", "--name=$(id)"], "--name '$(id)'"),
        (["create", "--name", ""], "--name is missing"),
        (["create", "--type", "v99-8"], "no runtime version known"),
        (["create", "--spot", "--reserved"], "exclude each other"),
        (["create", "--valid-for", "6h"], "add --queued"),
        (["install", "--bucket", "gs://my-bucket"], "without gs://"),
        (["delete", "now"], "delete takes no command"),
        (["run"], "run needs a command"),
        (["run", "HF_TOKEN=abc", "python"], "the command holds a secret"),
        (["run", "python", "--token", "hf_" + "a" * 30], "the command holds a secret"),
        (["resume", "--bucket=", *JOB], "resume without --bucket"),
        (["run", "--secrets", "none", *JOB], "--secrets none: no such file"),
    ],
)
def test_wrong_input_is_one_line_and_calls_nothing(tpu, words, says):
    error = tpu.error("tpu_vm.sh", *words)
    assert says in error and "hf_a" not in error


def test_secrets_that_others_can_read_or_that_are_a_script_are_refused(tpu):
    assert "mode 644" in tpu.error("tpu_vm.sh", "run", "--secrets", str(tpu.secrets("A=hush", 0o644)), *JOB)
    error = tpu.error("tpu_vm.sh", "run", "--secrets", str(tpu.secrets("A=b\nexport B=hush")), *JOB)
    assert "line 2" in error and "hush" not in error


def test_without_gcloud_the_fix_is_said(tpu):
    (tpu.programs / "gcloud").unlink()
    bare = {"PATH": str(tpu.programs)}
    for name in ("bash", "dirname"):
        (tpu.programs / name).symlink_to(shutil.which(name))
    assert "gcloud is not installed: see https://" in tpu.error("tpu_vm.sh", "delete", env=bare)


def test_a_preempted_job_finishes_in_a_slice_that_is_simulated(tpu):
    """All of it, with hosts' commands run here: the job is killed with its slice, and its second start finishes."""
    cloud = tpu.folder / "cloud"
    cloud.mkdir()
    (tpu.programs / "tar").unlink()
    tpu.program("gcloud", script="cloud.sh")
    tpu.program("uv", "mountpoint")
    bucket = tpu.folder / "bucket"
    bucket.mkdir()
    (tpu.root / "rmjax" / "job.sh").write_text(
        f'echo "$HF_TOKEN" >>"{bucket}/token"\n[ -f "{bucket}/step" ] || {{ echo 1 >"{bucket}/step"; sleep 60; }}\n'
    )
    path = tpu.secrets("HF_TOKEN=hush $(id)\n")
    words = ["resume", "--poll", "0.05", "--secrets", str(path), "bash", "rmjax/job.sh"]
    with subprocess.Popen(
        tpu.command("tpu_vm.sh", *words),
        env=tpu.environment | {"CLOUD": str(cloud)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not (bucket / "step").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        host = int((cloud / "home/rmjax-job/pid").read_text())
        (cloud / "state").write_text("PREEMPTED\n")
        os.killpg(host, signal.SIGKILL)  # the host is gone
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert (cloud / "events").read_text().split() == ["create", "delete", "create"]
    assert (bucket / "token").read_text() == "hush $(id)\n" * 2
    assert (cloud / "home/rmjax-secrets").stat().st_mode & 0o777 == 0o600
