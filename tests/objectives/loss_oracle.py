"""Slow, independent oracles: a row builder by loops, and a float64 decoder that runs every candidate by itself."""

import jax
import jax.numpy as jnp
import numpy as np

from rmjax.data.rows import Group, Rows
from rmjax.models.config import DecoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model

CONFIG = DecoderConfig(vocab=23, layers=2, embed=16, heads=4, kv_heads=2, head_dim=4, mlp=24, tied=False)


def model(head: bool = False) -> Model:
    return Model.of(CONFIG, Linear(scale=1.0) if head else None)


def example_groups(seed: int = 0, count: int = 3, *, columns: bool = True) -> list[Group]:
    """Groups with 2 to 4 completions of unequal lengths, all ordered pairs, random columns."""
    r = np.random.default_rng(seed)
    groups = []
    for i in range(count):
        k = 2 + i % 3
        pairs = [(a, b) for a in range(k) for b in range(k) if a < b]
        completions = [r.integers(0, CONFIG.vocab, int(r.integers(1, 6))).tolist() for _ in range(k)]
        groups.append(
            Group(
                id=f"g{i}",
                prompt=r.integers(0, CONFIG.vocab, int(r.integers(2, 7))).tolist(),
                completions=completions,
                ref_logps=[-3.0 * len(c) + float(r.normal()) for c in completions],
                pairs=pairs,
                weight=r.uniform(0.2, 2.0, len(pairs)).tolist() if columns else (),
                margin=r.normal(0, 0.3, len(pairs)).tolist() if columns else (),
                smooth=r.uniform(0, 0.3, len(pairs)).tolist() if columns else (),
            )
        )
    return groups


def to_rows(rows: list[list[Group]], *, length: int = 64, slots: int = 10, targets: int = 40, pairs: int = 16) -> Rows:
    """Packs lists of groups, one list a row, by plain loops."""
    b = len(rows)
    full = lambda *shape: np.full(shape, -1, np.int32)
    x = dict(
        tokens=np.zeros((b, length), np.int32), positions=np.zeros((b, length), np.int32),
        group=full(b, length), branch=full(b, length), target=full(b, targets), source=full(b, targets),
        slot=full(b, targets), slot_last=full(b, slots), ref_logps=np.zeros((b, slots), np.float32),
        pairs=full(b, pairs, 2), weight=np.zeros((b, pairs), np.float32), margin=np.zeros((b, pairs), np.float32),
        smooth=np.zeros((b, pairs), np.float32),
    )  # fmt: skip
    for r, groups in enumerate(rows):
        at = slot = target = pair = 0
        for g, group in enumerate(groups):
            first, last_of_prompt = slot, at + len(group.prompt) - 1
            for i, token in enumerate(group.prompt):
                x["tokens"][r, at], x["positions"][r, at] = token, i
                x["group"][r, at], x["branch"][r, at] = g, 0
                at += 1
            for c, completion in enumerate(group.completions):
                source = last_of_prompt
                for i, token in enumerate(completion):
                    x["tokens"][r, at], x["positions"][r, at] = token, len(group.prompt) + i
                    x["group"][r, at], x["branch"][r, at] = g, slot + 1
                    x["target"][r, target], x["source"][r, target], x["slot"][r, target] = at, source, slot
                    source, at, target = at, at + 1, target + 1
                x["slot_last"][r, slot] = at - 1
                x["ref_logps"][r, slot] = group.ref_logps[c] if len(group.ref_logps) else 0.0
                slot += 1
            for i, (better, worse) in enumerate(group.pairs):
                x["pairs"][r, pair] = first + better, first + worse
                x["weight"][r, pair] = group.weight[i] if len(group.weight) else 1.0
                x["margin"][r, pair] = group.margin[i] if len(group.margin) else 0.0
                x["smooth"][r, pair] = group.smooth[i] if len(group.smooth) else 0.0
                pair += 1
    return Rows(**x)


def unshared(groups: list[Group]) -> Rows:
    """Every pair by itself as a pair-by-pair trainer has it: its prompt computed twice."""
    rows = []
    for g in groups:
        for i, (better, worse) in enumerate(g.pairs):
            alone = [
                Group(id="", prompt=g.prompt, completions=[g.completions[c]], ref_logps=[g.ref_logps[c]])
                for c in (better, worse)
            ]
            row = to_rows([alone])
            row.pairs[0, 0] = (0, 1)
            row.weight[0, 0] = g.weight[i] if len(g.weight) else 1.0
            row.margin[0, 0] = g.margin[i] if len(g.margin) else 0.0
            row.smooth[0, 0] = g.smooth[i] if len(g.smooth) else 0.0
            rows.append(row)
    return jax.tree.map(lambda *x: np.concatenate(x), *rows)


@jax.jit
def hidden64(params, tokens):
    """Final hidden states of one sequence [t] by plain float64 loops over layers and heads; causal, no batch."""
    c, p = CONFIG, params["decoder"]
    norm = lambda x, w: x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + c.norm_eps) * w
    t, half = len(tokens), c.head_dim // 2
    angle = np.arange(t)[:, None] * c.rope.theta ** (-np.arange(half) * 2 / c.head_dim)
    turn = lambda x: jnp.concatenate(
        [
            x[:, :half] * np.cos(angle) - x[:, half:] * np.sin(angle),
            x[:, half:] * np.cos(angle) + x[:, :half] * np.sin(angle),
        ],
        axis=1,
    )
    x = p["table"][jnp.asarray(tokens)]
    for l in range(c.layers):
        w = {k: v[l] for k, v in p["blocks"].items()}
        y = norm(x, w["attn_norm"])
        out = jnp.zeros_like(x)
        for n in range(c.heads):
            kv = n // (c.heads // c.kv_heads)
            q, k, v = turn(y @ w["wq"][:, n]), turn(y @ w["wk"][:, kv]), y @ w["wv"][:, kv]
            seen = np.tril(np.ones((t, t), bool))
            logits = jnp.where(seen, q @ k.T / np.sqrt(c.head_dim), -jnp.inf)
            out = out + jax.nn.softmax(logits, axis=-1) @ v @ w["wo"][n]
        x = x + out
        y = norm(x, w["mlp_norm"])
        gate = y @ w["gate"]
        x = x + (gate * jax.nn.sigmoid(gate) * (y @ w["up"])) @ w["down"]
    return norm(x, p["norm"])


def padded(prompt, completion):
    """All sequences at one length, so that the oracle compiles once; what follows a token cannot change it."""
    tokens = [*prompt, *completion]
    return np.array(tokens + [0] * (16 - len(tokens)))


@jax.jit
def logps64(params, tokens):
    return jax.nn.log_softmax(hidden64(params, tokens) @ params["decoder"]["unembed"].T)


def logp64(params, prompt, completion):
    """log p(completion | prompt), one token at a time."""
    logps, at = logps64(params, padded(prompt, completion)), len(prompt) - 1
    return sum(logps[at + i, token] for i, token in enumerate(completion))


def reward64(params, prompt, completion):
    hidden = hidden64(params, padded(prompt, completion))
    return hidden[len(prompt) + len(completion) - 1] @ params["head"]["weight"]
