"""python -m rmjax.launch [NAME | FILE.py] [--field value ...]

Without a name: the quickstart, the whole method on a CPU, nothing downloaded, about five minutes.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rmjax import config
from rmjax.errors import UserError
from rmjax.jobs.devices import split_cpu

DEFAULT = "quickstart"


def usage(console: Console) -> None:
    """Prints every config with its one line."""
    console.print("usage: [bold]python -m rmjax.launch[/] [NAME | FILE.py] [--field value ...]")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("name", style="bold")
    table.add_column("what it does")
    for name, line in config.names().items():
        table.add_row(name, line + (" (the default)" if name == DEFAULT else ""))
    console.print(table)
    console.print("NAME --help lists every field, its default and its meaning.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a job; 0 = done, 2 = the user's mistake, said in one line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    console = Console()
    if argv and argv[0] in ("-h", "--help"):
        usage(console)
        return 0
    name = argv.pop(0) if argv and not argv[0].startswith("-") else DEFAULT
    try:
        job = config.override(config.load(name), argv, name=name)
        job.run(shlex.join(["python", "-m", "rmjax.launch", name, *argv]))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:  # a disk that is full or not writable, wherever it shows
        print(
            f"error: {e.filename or 'a file'}: {e.strerror or e}; make room or mend the path, then repeat",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    split_cpu()
    sys.exit(main())
