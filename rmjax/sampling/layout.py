"""The static shapes of a run: how many prompts and samples at once, padded to what. Few: each shape is compiled."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence

import jax

from rmjax.errors import UserError
from rmjax.models.config import DecoderConfig
from rmjax.sharding import current_mesh

STEP_FLOPS = 1e9  # a step on the CPU should do at least this much, or dispatching it costs more than computing it
MOST_SLOTS = 512  # what an accelerator gets, memory permitting: a step reads all weights, for few samples or for many
SHARED = 8  # samples of a prompt at once: more share its cache, fewer wait for the longest of them
SPARE = 4  # few requests still get a quarter of the rows: empty rows cost less than another compilation
FIRST_SIZE = 64  # tokens of the first suffix cache; it doubles as samples get longer


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shapes of one group of requests with prompts of like length."""

    rows: int  # prompts at once
    slots: int  # samples at once of each
    length: int  # prompt tokens
    sizes: tuple[int, ...]  # suffix caches, ascending; the last holds a whole completion
    reads: int  # prompts read at once


@dataclasses.dataclass(frozen=True)
class Need:
    """A request as far as shapes go."""

    length: int  # of the prompt
    samples: int


def layouts(
    needs: Sequence[Need], config: DecoderConfig, max_new_tokens: int, *, prompts: int = 0, slots: int = 0
) -> list[tuple[Layout, list[int]]]:
    """Groups requests by length and chooses each group's shapes.

    Args:
        needs: one per request.
        config: the model's.
        max_new_tokens: of a completion.
        prompts: rows; 0 = chosen.
        slots: samples at once of each; 0 = chosen. Fewer where memory holds no more.

    Returns:
        (layout, indices into needs, shorter prompts first) of each group, shorter prompts first. A group that would not
        fill the slots once joins the next longer one: padding costs less than another compilation.

    Raises:
        UserError: not even one sample fits the memory.
    """
    order = sorted(range(len(needs)), key=lambda i: needs[i].length)
    most = max((need.samples for need in needs), default=1)
    slots = slots or min(_power(most), SHARED)
    groups: list[list[int]] = []
    for i in order:
        last = groups[-1] if groups else None
        if last is not None:
            length = needs[last[-1]].length
            same = bucket(length) == bucket(needs[i].length)
            fills = sum(needs[j].samples for j in last) >= math.prod(_capacity(config, length, max_new_tokens, slots))
        if last is None or (fills and not same):
            groups.append([i])
        else:
            last.append(i)
    out = []
    for group in groups:
        length = bucket(needs[group[-1]].length)
        full, each = _capacity(config, length, max_new_tokens, slots)
        jobs = sum(math.ceil(needs[i].samples / each) for i in group)
        rows = prompts or min(max(_power(jobs), full // SPARE), full)
        out.append((Layout(rows, each, length, _sizes(max_new_tokens), max(1, rows // 4)), group))
    return out


def bucket(length: int) -> int:
    """The padded length: 32, 64, then powers of two and the numbers halfway between them."""
    size = 32
    while size < length:
        size = size * 2 if size < 128 else size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _capacity(config: DecoderConfig, length: int, new: int, slots: int) -> tuple[int, int]:
    """The most rows, and the slots of each, at most `slots`: enough work for a step, caches and logits in memory."""
    c, memory = config, _memory()
    token = 2 * c.layers * c.kv_heads * c.head_dim * (4 if c.dtype == "float32" else 2)
    row = lambda slots: token * bucket(length) + slots * (token * _sizes(new)[-1] + 16 * c.vocab)
    while slots > 1 and row(slots) > memory:
        slots //= 2
    if row(slots) > memory:
        raise UserError(
            f"one sample of {length} + {new} tokens needs {row(1) / 2**30:.1f} GiB of cache, more than there is: "
            f"lower max_new_tokens or shorten the prompts"
        )
    fits = 1 << int(math.log2(memory / row(slots)))
    return max(1, min(_wanted(c) // slots, fits)), slots


def _wanted(c: DecoderConfig) -> int:
    """Slots in all that a step is worth. A power of two."""
    if jax.default_backend() != "cpu":
        return MOST_SLOTS
    weights = c.layers * c.embed * (c.head_dim * (2 * c.heads + 2 * c.kv_heads) + 3 * c.mlp) + c.vocab * c.embed
    return min(1 << round(math.log2(max(32, STEP_FLOPS / (2 * weights)))), MOST_SLOTS)


def _memory() -> float:
    """Bytes that caches may take: half of what is free on accelerators, an eighth and at most 1 GiB on the host."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if jax.default_backend() != "cpu" and "bytes_limit" in stats:
        mesh = current_mesh()  # over which rows and heads lie
        return 0.5 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) * (1 if mesh is None else mesh.size)
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 8, 2.0**30)


def _sizes(new: int) -> tuple[int, ...]:
    last = -(-new // 16) * 16
    sizes = [FIRST_SIZE]
    while 4 * sizes[-1] <= last:
        sizes.append(2 * sizes[-1])
    return (*(s for s in sizes if 2 * s <= last), last)


def _power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()
