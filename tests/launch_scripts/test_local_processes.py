"""local_processes.sh: what the processes are told, and how they end together."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import StandIns

SCRIPT = "local_processes.sh"
SLEEPER = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def local(stand_ins: StandIns) -> StandIns:
    stand_ins.environment["TMPDIR"] = str(stand_ins.folder)
    return stand_ins


def test_processes_know_each_other_and_the_first_one_is_heard(local):
    code = "import os, sys; print([os.environ[f'JAX_{n}'] for n in sys.argv[1].split()], sys.argv[2:])"
    names = "COORDINATOR_ADDRESS NUM_PROCESSES PROCESS_ID"
    done = local.run(SCRIPT, "--logs", "my logs", "3", sys.executable, "-c", code, names, "it's", "$HOME *", "")
    logs = [(local.folder / "my logs" / f"process-{i}.log").read_text() for i in range(3)]
    assert done.stdout == logs[0]
    address = logs[0].split("'")[1]
    assert address.startswith("localhost:") and address[10:].isdigit()
    assert logs == [f"{[address, '3', str(i)]} {['it' + chr(39) + 's', '$HOME *', '']}\n" for i in range(3)]


@pytest.mark.parametrize("how", ["exit 7", "kill -9 $$"])
def test_one_that_dies_ends_all_and_its_last_lines_are_shown(local, how):
    begin = time.monotonic()
    up = f"until grep -q up {local.folder}/process-0.log; do sleep 0.05; done"
    one = f"if [ $JAX_PROCESS_ID = 1 ]; then {up}; echo boom; {how}; else {SLEEPER}; fi"
    words = ("--logs", str(local.folder), "2", "bash", "-c", one)
    done = local.run(SCRIPT, *words, status=7 if "7" in how else 137)
    assert time.monotonic() - begin < 60
    assert done.stdout == "up\nsaved\n"  # the other one was told to end
    assert "boom\nerror: process 1 of 2 ended" in done.stderr


def test_one_that_does_not_end_is_killed_with_what_it_has_started(local):
    pids = local.folder / "pids"
    stubborn = f"trap '' TERM; sleep 99 & echo $$ $! >{pids}; wait"
    one = f"if [ $JAX_PROCESS_ID = 0 ]; then while [ ! -s {pids} ]; do sleep 0.05; done; exit 1; else {stubborn}; fi"
    local.run(SCRIPT, "--grace", "1", "2", "bash", "-c", one, status=1)
    for pid in pids.read_text().split():
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout
        assert not state.strip() or state.startswith("Z")  # Z: dead, and not yet asked for by its parent


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_reach_all(local, number, status):
    with subprocess.Popen(
        local.command(SCRIPT, "--logs", str(local.folder), "2", "bash", "-c", SLEEPER),
        env=local.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in a shell's background SIGINT is ignored, and no script could trap it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        other = local.folder / "process-1.log"
        assert process.stdout.readline() == "up\n"
        while not other.exists() or "up" not in other.read_text():
            time.sleep(0.02)
        process.send_signal(number)
        try:
            assert process.wait(30) == status
        finally:
            process.terminate()  # or leaving the block would wait for ever
        # Of SIGINT a process may die at once, or be told to end because another one did.
        assert process.stdout.read() in (("saved\n",) if status == 0 else ("", "saved\n"))
        if status == 0:
            assert other.read_text() == "up\nsaved\n"


def test_a_dry_run_starts_nothing(local):
    done = local.run(SCRIPT, "--dry-run", "2", "touch", "a b")
    assert done.stdout.splitlines()[1] == (
        "env JAX_COORDINATOR_ADDRESS=localhost:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 touch 'a b'"
    )
    assert not (local.folder / "a b").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "N is missing"),
        (["0", "true"], "N 0"),
        (["two", "true"], "N two"),
        (["2"], "no command"),
        (["--grace", "long", "2", "true"], "--grace long: whole seconds"),
        (["2", "no-such-program"], "no-such-program: no such program"),
        (["2", "env", "HF_TOKEN=abc"], "the command holds a secret"),
    ],
)
def test_wrong_input_is_one_line(local, words, says):
    assert says in local.error(SCRIPT, *words)
