"""A checkout with the launchers and nothing else of weight, and programs that stand in for the cloud's."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
NASTY = (
    "two words",
    "it's",
    'a "quote"',
    "$HOME $(id) `id`",
    "*",
    "",
    "line\nbreak",
    "back\\slash",
    "a&b|c;d",
    "~",
    "ü",
)


class StandIns:
    """Programs that record how they were called and play scripted answers."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "checkout"
        self.programs = folder / "programs"
        for name in ("calls", "answers", "programs", "home"):
            (folder / name).mkdir()
        shutil.copytree(LAUNCH, self.root / "launch")
        for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
            (self.root / name).write_text(name)
        for name in ("configs", "rmjax"):
            (self.root / name).mkdir()
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "STAND_IN": str(folder),
        }

    def program(self, *names: str, script: str = "stand_in.sh") -> None:
        """Puts the script on PATH under these names."""
        for name in names:
            shutil.copy(Path(__file__).parent / script, self.programs / name)
            (self.programs / name).chmod(0o755)

    def answer(self, *answers: tuple[str, str] | tuple[str, str, int]) -> None:
        """Adds answers (pattern of the call, output[, status]), each played once, in this order."""
        begin = len(list((self.folder / "answers").iterdir()))
        for i, (pattern, text, *status) in enumerate(answers):
            (self.folder / "answers" / f"{begin + i:03}").write_text(f"{pattern}\n{(status or [0])[0]}\n{text}\n")

    def calls(self) -> list[list[str]]:
        """What has been called since the last look, as lists of words."""
        files = sorted((self.folder / "calls").iterdir())
        calls = [f.read_text().split("\0")[:-1] for f in files]
        for f in files:
            f.unlink()
        return calls

    def command(self, script: str, *words: str) -> list[str]:
        return ["bash", str(self.root / "launch" / script), *words]

    def run(
        self, script: str, *words: str, status: int = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a launcher; the test fails if it ends with another status."""
        done = subprocess.run(
            self.command(script, *words),
            env=self.environment | dict(env or {}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def error(self, script: str, *words: str, env: Mapping[str, str] | None = None) -> str:
        """The one line of an error; nothing was called."""
        done = self.run(script, *words, status=2, env=env)
        assert not done.stdout
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert not self.calls()
        return done.stderr

    def pasted(self, script: str, *words: str, env: Mapping[str, str] | None = None) -> list[list[str]]:
        """What the lines of a dry run call when a shell reads them. The dry run itself calls nothing."""
        text = self.run(script, words[0], "--dry-run", *words[1:], env=env).stdout
        assert not self.calls()
        subprocess.run(["bash", "-ec", text], env=self.environment, cwd=self.folder, check=True, capture_output=True)
        return self.calls()

    def secrets(self, text: str, mode: int = 0o600) -> Path:
        """A file of secrets."""
        path = self.folder / "my secrets"
        path.write_text(text)
        path.chmod(mode)
        return path


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


def remote(call: Sequence[str]) -> str:
    """The command that a call of gcloud ssh sends to the hosts."""
    assert call[4] == "ssh" and call[-1].startswith("--command=")
    return call[-1].removeprefix("--command=")
