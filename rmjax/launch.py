"""python -m rmjax.launch [NAME | FILE.py] [--distributed] [--field value ...]

Without a name: the quickstart, the whole method on a CPU, nothing downloaded, about five minutes.
With --distributed, one of several processes that do the job together (docs/distributed.md).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rmjax import config, distributed
from rmjax.errors import UserError
from rmjax.jobs.devices import split_cpu

DEFAULT = "quickstart"
DISTRIBUTED = "--distributed"


def usage(console: Console) -> None:
    """Prints every config with its one line, studies of controlled worlds last."""
    console.print("usage: [bold]python -m rmjax.launch[/] [NAME | FILE.py] [--field value ...]")
    names = config.names()
    worlds = {name: line for name, line in names.items() if config.in_world(name, line)}
    jobs = {name: line for name, line in names.items() if name not in worlds}
    width = max(map(len, names))
    for title, group in (("jobs, by name (by purpose: docs/jobs.md)", jobs), ("studies in controlled worlds", worlds)):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", min_width=width)
        table.add_column()
        for name, line in group.items():
            table.add_row(name, line + (" (the default)" if name == DEFAULT else ""))
        console.print(f"\n[bold]{title}[/]")
        console.print(table)
    console.print("\nNAME --help lists every field, its default and its meaning.")
    console.print(f"{DISTRIBUTED}: one of several processes that do the job together (docs/distributed.md).")


def require_processes(job: Any, name: str) -> None:
    """Raises UserError for a job that is not made for several processes."""
    if not getattr(job, "processes", False):
        raise UserError(
            f"{DISTRIBUTED}: {name} runs in one process; made for several are gfriend, judge, score and train"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a job; 0 = done, 2 = the user's mistake, said in one line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    several = DISTRIBUTED in argv
    argv = [word for word in argv if word != DISTRIBUTED]
    console = Console()
    if argv and argv[0] in ("-h", "--help"):
        usage(console)
        return 0
    name = argv.pop(0) if argv and not argv[0].startswith("-") else DEFAULT
    try:
        job = config.override(config.load(name), argv, name=name)
        if several:
            require_processes(job, name)
            distributed.start()
        else:
            distributed.require_alone()
        words = ["python", "-m", "rmjax.launch", name, *([DISTRIBUTED] if several else []), *argv]
        job.run(shlex.join(words))
    except (UserError, OSError) as e:
        if distributed.lost(e):
            raise
        said = str(e)
        if isinstance(e, OSError):  # a disk that is full or not writable, wherever it shows
            said = f"{e.filename or 'a file'}: {e.strerror or e}; make room or mend the path, then repeat"
        print(f"error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


def program() -> int:
    """`main` with the devices that the command line asks for."""
    try:
        split_cpu(distributed.here() if DISTRIBUTED in sys.argv else 1)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return main()


if __name__ == "__main__":
    distributed.run(program)
