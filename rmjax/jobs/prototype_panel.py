"""The prototype inspector of the report: what each prototype stands for, and how prototypes made some of the scores.

A prototype is a point among the embeddings z of answers. What it stands for are the training answers nearest to it;
how much it counts for an answer is a_k; and of a difference of two rewards, (1 - mix) w . (z_c - z_r) comes straight
from the embeddings, and mix sum_k (a_kc - a_kr) w . p_k through the prototypes.

Dimensions: n answers, d width of an embedding, k prototypes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from rmjax.evaluation import report
from rmjax.evaluation.pairwise import ItemScore
from rmjax.evaluation.sections import Panel
from rmjax.jobs.head_features import FeaturedPairs
from rmjax.models import heads
from rmjax.models.heads import Prototypes
from rmjax.models.pooling import UNIT, Pool
from rmjax.training.frozen.basis import normalised

NEAR = 3  # training answers shown of a prototype, prototypes shown of an answer
SHOWN = (("surest and right", 2), ("surest and wrong", 3), ("hardly decided", 2))
LENGTH = 420  # characters of a text on the page
NOTE = (
    "The head compares an answer with a few learnt points, its prototypes, and pulls the reward towards theirs. Each "
    "row is one prototype: the class that it began in, the reward that it alone would give (0 is the training answers' "
    "mean), its mean weight over training answers, and the share of the answers nearest to it that people had chosen "
    "(without ties). About half says that the prototype stands for a kind of text, not for a good or bad one. Below a "
    "row are the training answers nearest to it. Then some held-out scores: each answer's nearest prototypes with "
    "their weights, and how much of the difference between the two rewards comes through the prototypes."
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """Answers as the head sees them."""

    z: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


def panel(
    head: Prototypes,
    params: Any,
    pool: Pool,
    train: FeaturedPairs,
    held: FeaturedPairs,
    scores: Sequence[ItemScore],
) -> Panel:
    """The section of a head (arguments: `contents`)."""
    return Panel(
        id="prototypes", title="The prototypes", note=NOTE, body=page(contents(head, params, pool, train, held, scores))
    )


def contents(
    head: Prototypes,
    params: Any,
    pool: Pool,
    train: FeaturedPairs,
    held: FeaturedPairs,
    scores: Sequence[ItemScore],
) -> dict[str, Any]:
    """What the section shows, in numbers and texts.

    Args:
        params: of the head, on the host.
        pool: what the head reads: kinds of the pairs' features, which it may have divided by their norms.
        scores: of the held-out pairs.
    """
    parts = len(pool) if pool[0].startswith(UNIT) else 0
    see = lambda x: seen(head, params, normalised(x, parts))
    there = np.flatnonzero(np.asarray(params["valid"]) > 0.5)
    pulls = pull(params)
    sides = [see(x) for x in (train.features.chosen, train.features.rejected)]
    both = Seen(*(np.concatenate([getattr(s, f.name) for s in sides]) for f in dataclasses.fields(Seen)))
    centre = float(np.mean(both.weights @ pulls))
    nearest = both.distances.argmin(1)
    pairs, tests = train.items, held.items
    chosen = np.arange(len(both.z)) < len(pairs)
    decided = np.tile([not p.tie for p in pairs], 2)  # people chose neither answer of a tie
    text = [*(p.chosen for p in pairs), *(p.rejected for p in pairs)]
    prototypes = []
    for number, k in enumerate(there, 1):
        mine = nearest == k
        judged = mine & decided
        prototypes.append(
            {
                "number": number,
                "began": "chosen" if np.asarray(params["classes"])[k] > 0.5 else "rejected",
                "pull": float(pulls[k] - centre),
                "weight": float(both.weights[:, k].mean()),
                "answers": int(mine.sum()),
                "chosen": float(chosen[judged].mean()) if judged.any() else None,
                "examples": [
                    {
                        "label": ("chosen" if chosen[i] else "rejected") if decided[i] else "one of a tie",
                        "distance": float(both.distances[i, k]),
                        "id": pairs[i % len(pairs)].id,
                        "prompt": excerpt(pairs[i % len(pairs)].prompt[-1].content),
                        "text": excerpt(text[i]),
                    }
                    for i in closest(both.distances[:, k], len(pairs))
                ],
            }
        )
    mix = float(np.asarray(params["mix"]))
    sides = [see(x) for x in (held.features.chosen, held.features.rejected)]
    through = mix * (sides[0].weights - sides[1].weights) @ pulls
    numbers = {int(k): n for n, k in enumerate(there, 1)}
    weight = np.asarray(params["weight"], np.float64)
    straight = (1 - mix) * (sides[0].z - sides[1].z) @ weight
    read = [
        {
            "title": title,
            "id": tests[i].id,
            "prompt": excerpt(tests[i].prompt[-1].content),
            "difference": float(straight[i] + through[i]),
            "straight": float(straight[i]),
            "through": float(through[i]),
            "answers": [
                {
                    "label": label,
                    "text": excerpt(answer),
                    "reward": score,
                    "near": [
                        {"number": numbers[int(k)], "weight": float(side.weights[i, k])}
                        for k in np.argsort(-side.weights[i], kind="stable")[:NEAR]
                        if int(k) in numbers
                    ],
                }
                for label, answer, score, side in (
                    ("chosen", tests[i].chosen, scores[i].score_chosen, sides[0]),
                    ("rejected", tests[i].rejected, scores[i].score_rejected, sides[1]),
                )
            ],
        }
        for title, i in pick(straight + through)
    ]
    entropy = -np.sum(both.weights * np.log(np.maximum(both.weights, 1e-30)), axis=1)
    return {
        "prototypes": sorted(prototypes, key=lambda p: -p["pull"]),
        "spread": float(np.exp(entropy).mean()),
        "share": float(np.sqrt(np.mean(through**2) / max(np.mean((straight + through) ** 2), 1e-30))),
        "read": read,
    }


def seen(head: Prototypes, params: Any, x: Float[np.ndarray, "n f"]) -> Seen:
    """Embeddings, weights and distances of answers."""
    module = heads.split(head, x.shape[1]).bind(params)
    z = module.embed(x)
    apart = heads.squared_distances(z, params["prototypes"])
    far = np.where(np.asarray(params["valid"]) > 0.5, np.sqrt(np.asarray(apart)), np.inf)
    return Seen(np.asarray(z, np.float64), np.asarray(module.assign(x), np.float64), far)


def pull(params: Any) -> Float[np.ndarray, " k"]:
    """w . p_k."""
    return np.asarray(params["prototypes"], np.float64) @ np.asarray(params["weight"], np.float64)


def closest(distances: Float[np.ndarray, " n"], pairs: int) -> list[int]:
    """The nearest answers, at most one of a pair."""
    found: dict[int, int] = {}
    for i in np.argsort(distances, kind="stable"):
        found.setdefault(int(i) % pairs, int(i))
        if len(found) == NEAR:
            break
    return list(found.values())


def pick(difference: Float[np.ndarray, " n"]) -> list[tuple[str, int]]:
    """Held-out pairs to show, with why; none twice."""
    order = np.argsort(difference, kind="stable")
    right, wrong = [i for i in order[::-1] if difference[i] > 0], [i for i in order if difference[i] < 0]
    close = list(np.argsort(np.abs(difference), kind="stable"))
    out: dict[int, str] = {}
    for (title, count), group in zip(SHOWN, (right, wrong, close), strict=True):
        for i in [i for i in group if i not in out][:count]:
            out[int(i)] = title
    return [(title, i) for i, title in out.items()]


def excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[: LENGTH - 2] + " …"


def page(parts: Mapping[str, Any]) -> Markup:
    """The section's HTML."""
    signed = lambda v: f"{v:+.3f}".replace("-", "−")
    return Markup(report.template("prototypes.html", signed=signed, pct=report.percent).render(**parts))
