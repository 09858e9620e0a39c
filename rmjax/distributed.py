"""Many processes that do one job: how they find each other, agree, and end together.

Every process runs the same program on the same settings and data. Process 0 alone writes files (`writes`) and to the
terminal; what files say is read by it and told to the others (`first`, `agree`), so that all take the same way.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from rmjax.errors import UserError

T = TypeVar("T")
NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
ARRIVE = 300  # seconds in which all processes must have come
HEARTBEAT = 20  # seconds of silence after which a process counts as dead
LEAVE = 24 * 3600  # seconds in which all must have finished; those that die are noticed earlier
PIECE = 1 << 22  # bytes that a process sends at once
SIGNS = re.compile(r"gloo|nccl|coordination service|distributed service|heartbeat|barrier", re.I)

_index, _count, _alone = 0, 1, False


def index() -> int:
    """Which process this is, from 0."""
    return _index


def count() -> int:
    """How many processes do the job; 1 within `alone`."""
    return 1 if _alone else _count


def writes() -> bool:
    """Whether this process writes files."""
    return _alone or _index == 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it a process works by itself: it writes its own files, and meets no other one."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def given() -> tuple[str, int, int] | None:
    """(coordinator's address, processes, this one's index) as the environment has them; None where it has none.

    Raises:
      UserError: some are missing, or one is not what it should be.
    """
    values = {name: os.environ.get(name, "") for name in NAMES}
    if not any(values.values()):
        return None
    if missing := [name for name, value in values.items() if not value]:
        raise UserError(f"--distributed: {', '.join(missing)} not set: set all of {', '.join(NAMES)}, or none of them "
                        "where Slurm, Cloud TPU or GKE say who takes part")  # fmt: skip
    address, processes, this = values.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{NAMES[0]}={address}: give HOST:PORT of process 0, as in node1:12345")
    if not processes.isdigit() or not int(processes):
        raise UserError(f"{NAMES[1]}={processes}: give a number of processes above 0")
    if not this.isdigit() or int(this) >= int(processes):
        raise UserError(f"{NAMES[2]}={this}: with {NAMES[1]}={processes} give a number from 0 to {int(processes) - 1}")
    return address, int(processes), int(this)


def require_alone() -> None:
    """Raises UserError where a launcher has started several processes, each of which would do the whole job."""
    if (processes := os.environ.get(NAMES[1]) or "1") != "1":
        raise UserError(
            f"{NAMES[1]}={processes}: without --distributed each of these processes would do the whole job in one "
            "workdir; add the flag, or unset the variable"
        )


def here() -> int:
    """How many of the processes are on this machine, as far as their addresses tell: all, or this one."""
    known = given()
    return known[1] if known and known[0].rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]") else 1


def start(timeout: int = ARRIVE) -> None:
    """Joins the other processes. Call it before JAX is first used.

    Raises:
      UserError: no cluster is found, or process 0 cannot be reached.
    """
    global _index, _count
    import jax

    known = given()
    # On a platform that has one, JAX's own handler of SIGTERM would keep stages other than training from ending.
    jax.config.update("jax_enable_preemption_service", False)
    chosen: dict[str, Any] = {}
    if known is not None:
        address, processes, this = known
        _reach(address, this, timeout)
        # Without "deactivate", JAX would give a process under Slurm one GPU of its node.
        chosen = {"coordinator_address": address, "num_processes": processes, "process_id": this}
        chosen["cluster_detection_method"] = "deactivate"
    # Where some never come, XLA aborts this process and does not say why.
    print(f"--distributed: waiting {timeout} s at most for all processes to come", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(
            **chosen,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=LEAVE,
        )
    except Exception as error:  # of Python's and of XLA's: RuntimeError, ValueError, what a cluster's metadata raise
        raise UserError(f"--distributed: {_why(error)}") from error
    _index, _count = jax.process_index(), jax.process_count()
    if _index:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


def _reach(address: str, this: int, timeout: int) -> None:
    """Process 0's port is free for it; the others wait until it answers there."""
    host, _, port = address.rpartition(":")
    if this == 0:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        except (OSError, OverflowError) as e:
            raise UserError(f"{NAMES[0]}={address}: port {port} cannot be opened ({e}); choose another one") from e
        return
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as e:
            if time.monotonic() > until:
                raise UserError(
                    f"{NAMES[0]}={address}: process 0 did not answer within {timeout} s ({e}); start it too, and check "
                    "the address and that nothing between the hosts blocks the port"
                ) from e
        time.sleep(0.2)


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "coordinator_address should be defined" in text:
        return f"neither Slurm nor a Cloud TPU slice is found here: set {', '.join(NAMES)}, or leave the flag out"
    if "before any JAX" in text:
        return "the config file uses JAX before the job starts: compute in the job's run() instead"
    return f"the processes cannot join: {text[:300]}"


def died() -> str:
    """What the processes that are left say, in one line."""
    return (
        f"process {_index} of {_count}: another process has ended or cannot be reached (its own output says why); run "
        "the same command again, with as many processes or others: it continues"
    )


def lost(error: BaseException | None) -> bool:
    """Whether an error, or what it was made of, comes from another process's end; a path may hold the same words."""
    if _count == 1 or error is None:
        return False
    ours = isinstance(error, UserError) or getattr(error, "errno", None)  # Orbax's TimeoutError has no number
    return (not ours and SIGNS.search(str(error)) is not None) or lost(error.__cause__)


def leave(status: int | str | None) -> None:
    """Ends this process: after the others where all is well, at once where it is not, so that the others notice."""
    import jax

    if _count > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if status:
            os._exit(status if isinstance(status, int) else 1)
        jax.distributed.shutdown()
    sys.exit(status)


def run(main: Callable[[], int]) -> None:
    """Runs the program and ends the process; what goes wrong in one process ends all."""
    try:
        status = main()
    except SystemExit as e:
        status = e.code
    except BaseException as e:
        if lost(e):
            print(" ".join(str(e).split())[:500], f"error: {died()}", sep="\n", file=sys.stderr)
        else:
            traceback.print_exc()
        status = 1
    leave(status)


def first(work: Callable[[], T]) -> T:
    """What `work` gives in process 0, in every process; a UserError is raised in all of them."""
    if count() == 1:
        return work()
    value = error = None
    if _index == 0:
        try:
            value = work()
        except UserError as e:
            error = str(e)
    value, error = agree((value, error))
    if error is not None:
        raise UserError(error)
    return value


def agree(value: T) -> T:
    """Process 0's value, in every process. All have come this far when one goes on."""
    return value if count() == 1 else gather(value if _index == 0 else None)[0]


def gather(value: T) -> list[T]:
    """Every process's value, in every process, in their order."""
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(mine.size)))
    parts: list[list[bytes]] = [[] for _ in range(_count)]
    for begin in range(0, int(sizes.max()), PIECE):
        left = int(sizes.max()) - begin
        room = min(PIECE, 1 << max(10, (left - 1).bit_length()))  # few sizes, for each is compiled
        piece = np.zeros(room, np.uint8)
        own = mine[begin : begin + room]
        piece[: own.size] = own
        for part, row in zip(parts, multihost_utils.process_allgather(piece), strict=True):
            part.append(row.tobytes())
    return [pickle.loads(b"".join(part)[:size]) for part, size in zip(parts, sizes, strict=True)]
