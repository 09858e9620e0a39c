"""worker.sh, as it runs on a host: what it says of a job, and signals."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import StandIns

STUBBORN = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"


def state(stand_ins: StandIns, *words: str) -> str:
    return stand_ins.run("worker.sh", "state", *words).stdout


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.fixture
def job(stand_ins: StandIns) -> Iterator[Path]:
    folder = stand_ins.folder / "home" / "rmjax-job"
    yield folder
    if (folder / "pid").exists() and not (folder / "status").exists():  # of a test that failed half-way
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)


def test_a_jobs_states(stand_ins, job):
    assert state(stand_ins, "7") == "rmjax-job none\n"
    stand_ins.run("worker.sh", "start", "7", "sh", "-c", 'pwd; echo "$0"; exit 3', "a b")
    wait_for(job / "status", "exit 3")
    assert stand_ins.run("worker.sh", "log", "9").stdout == f"{stand_ins.root}\na b\n"
    assert state(stand_ins, "7") == state(stand_ins) == "rmjax-job exit 3\n"
    assert state(stand_ins, "8") == "rmjax-job none\n"  # another command may start
    stand_ins.run("worker.sh", "start", "8", "bash", "-c", STUBBORN)
    wait_for(job / "log", "up")
    assert state(stand_ins, "8") == "rmjax-job running\n"
    assert state(stand_ins, "7") == "rmjax-job other\n"
    assert "another command is running" in stand_ins.run("worker.sh", "start", "7", "true", status=2).stderr
    stand_ins.run("worker.sh", "stop")
    wait_for(job / "status", "stopped")
    assert "saved" in (job / "log").read_text()


def test_a_host_that_goes_down_leaves_no_exit_0(stand_ins, job):
    stand_ins.run("worker.sh", "start", "7", "bash", "-c", STUBBORN)
    wait_for(job / "log", "up")
    os.kill(int((job / "pid").read_text()), signal.SIGTERM)
    wait_for(job / "status", "interrupted")
    assert "saved" in (job / "log").read_text()
    stand_ins.run("worker.sh", "start", "7", "bash", "-c", STUBBORN)
    wait_for(job / "log", "saved\nup")
    os.killpg(int((job / "pid").read_text()), signal.SIGKILL)
    while state(stand_ins, "7") == "rmjax-job running\n":
        time.sleep(0.02)
    assert state(stand_ins, "7") == "rmjax-job lost\n"


def test_in_a_container_a_job_that_is_told_to_end_has_not_finished(stand_ins):
    assert stand_ins.run("worker.sh", "foreground", "sh", "-c", "echo $0; exit 5", "x", status=5).stdout == "x\n"
    with subprocess.Popen(
        stand_ins.command("worker.sh", "foreground", "bash", "-c", STUBBORN),
        env=stand_ins.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.stdout.read() == "saved\n"
        assert process.wait(20) == 143


def test_install_brings_python_and_mounts_the_bucket_once(stand_ins):
    home = stand_ins.folder / "home"
    stand_ins.program("python3", "uv", "mountpoint", "gcsfuse", "sudo")
    stand_ins.answer(("^mountpoint", "", 1))
    stand_ins.run("worker.sh", "install", "my-bucket")
    python = str(home / "rmjax-env/bin/python")
    assert stand_ins.calls() == [
        ["uv", "venv", "--quiet", "--python", "3.12", str(home / "rmjax-env")],
        ["uv", "pip", "install", "--quiet", "--python", python, "-e", f"{stand_ins.root}[tpu]"],
        ["mountpoint", "-q", "/mnt/bucket"],
        ["sudo", "mkdir", "-p", "/mnt/bucket"],
        ["sudo", "chown", f"{os.getuid()}:{os.getgid()}", "/mnt/bucket"],
        ["gcsfuse", "--implicit-dirs", "my-bucket", "/mnt/bucket"],
    ]
    stand_ins.run("worker.sh", "install", "my-bucket")
    assert [c[0] for c in stand_ins.calls()] == ["uv", "uv", "mountpoint"]
