"""Judgments out of nothing: refinement is a function of records."""

import hashlib
import math

from rmjax.records import Judgment


def build(item, slot, verdict, *, index=0, ppl=2.0, reasoning=3, hint=None, tokens=None, prob_a=None):
    """A judgment whose reasoning has perplexity `ppl` and whose verdict's three tokens have log-probability -0.25."""
    digest = hashlib.sha256(f"{item}{slot}{verdict}{index}{hint}".encode()).digest()
    tokens = tokens or tuple(b % 50 for b in digest[: reasoning + 3])
    return Judgment(
        item=item,
        slot=slot,
        index=index,
        prompt=(ord(item[0]) % 50, ord(slot) % 50),
        tokens=tokens,
        logps=(-math.log(ppl),) * reasoning + (-0.25,) * (len(tokens) - reasoning),
        reasoning=reasoning,
        text="because",
        verdict=verdict,
        prob_a=prob_a,
        finish="stop",
        hint=hint,
    )
