"""What is drawn for a pair by its id alone, so that neither other pairs nor their order matter."""

from __future__ import annotations

import hashlib


def uniform(seed: int, id: str, use: str) -> float:
    """A number in [0, 1), a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}|{id}|{use}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def swapped(seed: int, id: str, use: str) -> bool:
    """Whether the second answer of a pair comes first: a fair coin."""
    return uniform(seed, id, use) < 0.5
