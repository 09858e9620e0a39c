"""A labelling server as a process of its own: python serve_page.py PAIRS VOTES; the address is its first line."""

from __future__ import annotations

import sys
from pathlib import Path

from rmjax import jsonl
from rmjax.oracles.page import Server
from rmjax.oracles.session import Session
from rmjax.records import Pair

if __name__ == "__main__":
    server = Server(Session(jsonl.read(sys.argv[1], Pair), Path(sys.argv[2]), by="ann"))
    print(server.address, flush=True)
    server.run()
