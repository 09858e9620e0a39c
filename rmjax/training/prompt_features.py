"""Features of prompts alone, each with an empty answer, kept on disk beside those of pairs (`training.features`).

Dimensions: n pairs, m distinct prompts, f width of a pooled feature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rmjax.data.features import Features
from rmjax.data.limits import require_context
from rmjax.errors import UserError
from rmjax.models.model import Model, Params
from rmjax.models.pooling import pooled
from rmjax.objectives.reference import packed_scores
from rmjax.records import Preference
from rmjax.training.features import groups_of, kept, key_of


def prompts(
    folder: str | Path, model: Model, params: Params, contract: Any, items: Sequence[Preference], *, batch: int = 8
) -> Float[np.ndarray, "n f"]:
    """Pooled features of each pair's prompt, float32; a prompt of several pairs is computed once.

    An encoder reads [CLS] prompt [SEP] [SEP]; of a decoder's pooled parts those of the answer are of its end token.

    Args:
        folder: the cache.
        batch: packed rows a forward pass.

    Raises:
        UserError: no items; a prompt that is longer than the model can read and that the contract does not cut; a
            value that is not finite.
    """
    if not items:
        raise UserError("features of no prompts: give at least one")
    only = list({p.prompt: Preference(prompt=p.prompt, chosen="", rejected="") for p in items}.values())

    def make() -> Float[np.ndarray, "m f"]:
        both = groups_of(contract, only)  # one answer is as empty as the other
        groups = [dataclasses.replace(g, completions=g.completions[:1], skip=g.skip[:1]) for g in both]
        require_context(groups, model.context)
        found = np.stack(packed_scores(model, params, groups, pooled, [1] * len(groups), batch=batch, name="prompts"))
        found = found[:, 0].astype(np.float32)
        Features(tuple(p.id for p in only), found, found).require_finite()
        return found

    path = Path(folder) / key_of(model, params, contract, only) / "prompts.npy"
    place = {p.prompt: i for i, p in enumerate(only)}
    return kept(path, make, shape=(len(only), model.features))[[place[p.prompt] for p in items]]
