"""The launcher, killed (SIGKILL) at a moment that is too short to be hit by watching files.

python killed_launch.py rollout | score | checkpoint | export  LAUNCHER'S ARGUMENTS
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from rmjax import jsonl, launch
from rmjax.data.chat import Chat
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs import score
from rmjax.records import Rollout
from rmjax.training.checkpoint import Checkpoints

WHOLE = 5  # lines on file before the one that is torn


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_rollout() -> None:
    """In the middle of a line of the sampler's file."""
    in_a_line(Rollout)


def in_a_score() -> None:
    """In the middle of a line of scores.jsonl, in the second part of four items."""
    score.PART = 4
    in_a_line(ItemScore)


def in_a_line(type_: type) -> None:
    usual, left = jsonl.Appender.append, [WHOLE]

    def append(self: jsonl.Appender, record: Any) -> None:
        left[0] -= isinstance(record, type_)
        if left[0] < 0:
            with Path(self.path).open("ab") as file:
                file.write(jsonl.encode(record, self.path)[:-20])
            die()
        usual(self, record)

    jsonl.Appender.append = append


def after_a_checkpoint() -> None:
    """When the first checkpoint is whole."""
    usual = Checkpoints.save

    def save(self: Checkpoints, *state: Any, **named: Any) -> None:
        usual(self, *state, **named)
        self.wait()
        die()

    Checkpoints.save = save


def in_an_export() -> None:
    """When a judge's weights are written and its token contract is not."""
    Chat.save = die


if __name__ == "__main__":
    moments = {"rollout": in_a_rollout, "score": in_a_score}
    moments |= {"checkpoint": after_a_checkpoint, "export": in_an_export}
    moments[sys.argv[1]]()
    launch.main(sys.argv[2:])
