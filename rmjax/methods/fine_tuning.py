"""What a reward model is trained with beside its ranking loss, in full fine-tuning: contrast, MetaRM, prototypes.

A method says which head the model gets, what is done to the parameters before training and after it, and its objective.
Heads on frozen features have the same methods in `methods.secrets` and `methods.proto_rm`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rmjax.bounds import require
from rmjax.data.rows import Group, Rows
from rmjax.errors import UserError
from rmjax.methods.proto_rm import first_prototypes
from rmjax.models import heads
from rmjax.models.centred import Centred, around
from rmjax.models.heads import HeadConfig, Linear
from rmjax.models.model import Model, Params
from rmjax.objectives import contrastive, meta, prototypical
from rmjax.objectives.base import Objective
from rmjax.objectives.contrastive import Form
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import packed_scores
from rmjax.objectives.scores import hidden_states
from rmjax.training.loop import Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain:
    """The ranking loss alone."""

    head: ClassVar[HeadConfig] = Linear()

    def check(self, train: Train) -> None:
        """Raises UserError for a training that the method cannot use."""

    def objective(self, ranking: Pairwise) -> Objective:
        """What is minimised."""
        return ranking

    def start(self, model: Model, params: Params, groups: Sequence[Group], key: Array) -> tuple[Model, Params]:
        """The model and parameters that are trained; `groups` are the training pairs."""
        return model, params

    def end(self, model: Model, params: Params) -> tuple[Model, Params]:
        """What is left of them for scoring."""
        return model, params


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCse(Plain):
    """L_ranking + beta SimCSE between two dropout passes (arXiv:2401.06080); a batch's other answers are negatives."""

    beta: float = 1.0  # the paper's
    form: Form = "direct"  # rows compared: all answers, or differences of chosen and rejected
    temperature: float = 0.05

    def __post_init__(self) -> None:
        require("method.", self, "beta", least=0)
        require("method.", self, "temperature", above=0)

    def check(self, train: Train) -> None:
        """Raises UserError without dropout, and with microbatches."""
        if not train.dropout:
            raise UserError(
                "train.dropout=0.0: the method compares two dropout passes; give a share (the paper's: 0.05)"
            )
        if train.microbatches > 1:
            raise UserError(
                f"train.microbatches={train.microbatches}: the method compares all answers of a batch; set it to 1 "
                "(--model.remat saves memory)"
            )

    def objective(self, ranking: Pairwise) -> Objective:
        """What is minimised."""
        return contrastive.Contrastive(
            ranking=ranking,
            loss="swav" if isinstance(self, Swav) else "simcse",
            beta=self.beta,
            form=self.form,
            temperature=self.temperature,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swav(SimCse):
    """L_ranking + beta SwAV between two dropout passes (arXiv:2401.06080); prototypes are dropped from the export."""

    beta: float = 0.1  # the paper's; 0.5 for differences
    temperature: float = 0.1
    prototypes: int = 50  # the paper's; 20 for differences

    def __post_init__(self) -> None:
        super().__post_init__()
        require("method.", self, "prototypes", least=2)

    def start(self, model: Model, params: Params, groups: Sequence[Group], key: Array) -> tuple[Model, Params]:
        """With new prototypes beside the head."""
        model = model.with_head(Centred(of=model.head, count=self.prototypes))
        drawn = model.add_head({}, key)["head"]
        return model, {**params, "head": around(params["head"], drawn)}

    def end(self, model: Model, params: Params) -> tuple[Model, Params]:
        """Without the prototypes."""
        return model.with_head(model.head.of), {**params, "head": params["head"]["of"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaRm(Plain):
    """MetaRM (arXiv:2405.00438): the ranking gradient where unlabelled answers are told apart a step more clearly."""

    responses: str = ""  # prompts with two or more completions of the current policy; empty: the pairs', without labels
    eta: float = 0.01  # ascent's step along the raw gradient; the paper's 5e-6 moves nothing that can be seen

    def __post_init__(self) -> None:
        require("method.", self, "eta", least=0)

    def objective(self, ranking: Pairwise) -> Objective:
        """Whose direction is followed."""
        return meta.MetaRm(ranking=ranking, eta=self.eta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtoRm(Plain):
    """Proto-RM (after arXiv:2406.06606): a head that scores through prototypes of good and of bad answers."""

    embed: int = 64  # width of the prototypes' space
    capacity: int = 32  # prototypes that there is room for, both classes together
    start_with: int = 8  # prototypes a class before IMP adds any
    init: Literal["means", "kmeans++"] = "means"  # means of random parts of a class, or answers far apart
    sigma: float = 0.05  # IMP's variance: larger adds fewer
    alpha: float = 0.1  # IMP's threshold: larger adds more
    mix: float = 0.5  # the prototypes' share of the score
    gamma: float = 1.0  # how sharply near prototypes are preferred
    assignment: float = 0.1  # weight of the assignment loss
    diversity: float = 0.1  # weight of the diversity loss

    def __post_init__(self) -> None:
        require("method.", self, "start_with", "embed", least=1)
        require("method.", self, "mix", above=0, most=1)
        require("method.", self, "gamma", "sigma", above=0)
        require("method.", self, "alpha", above=0, below=1)
        require("method.", self, "assignment", "diversity", least=0)
        if self.capacity < 2 * self.start_with:
            raise UserError(
                f"method.capacity={self.capacity}: two classes of {self.start_with} prototypes need at least "
                f"{2 * self.start_with}"
            )

    @property
    def head(self) -> HeadConfig:
        """A prototypical head, which has no prototype yet."""
        return heads.Prototypes(embed=self.embed, capacity=self.capacity, gamma=self.gamma, mix=self.mix)

    def objective(self, ranking: Pairwise) -> Objective:
        """What is minimised."""
        return prototypical.ProtoRm(ranking=ranking, assignment=self.assignment, diversity=self.diversity)

    def start(self, model: Model, params: Params, groups: Sequence[Group], key: Array) -> tuple[Model, Params]:
        """With prototypes from a forward pass over the training pairs (those of weight 0 left out), IMP's included.

        The projection is scaled first: embeddings lie at a mean square of 1 around their mean, which is the unit of
        `gamma`, `sigma` and the diversity's distance; the linear score stays what it was.
        """
        z = np.stack(packed_scores(model, params, groups, embedded, [2] * len(groups), batch=16, name="prototypes"))
        there = np.array([not len(g.weight) or g.weight[0] > 0 for g in groups], bool)
        spread = z[there].reshape(-1, z.shape[-1])
        scale = 1.0 / np.sqrt(max(np.mean(np.sum((spread - spread.mean(0)) ** 2, axis=-1)), 1e-12))
        head = params["head"]
        head = {**head, "projection": scale * head["projection"], "weight": head["weight"] / scale}
        z = scale * z
        found = first_prototypes(
            key,
            jnp.asarray(np.concatenate([z[:, 0], z[:, 1]])),
            jnp.tile(jnp.asarray(there), 2),
            start_with=self.start_with,
            init=self.init,
            capacity=self.capacity,
            sigma=self.sigma,
            alpha=self.alpha,
        )
        return model, {**params, "head": {**head, **jax.tree.map(np.asarray, found)}}


def embedded(model: Model, params: Params, rows: Rows) -> Float[Array, "b c d"]:
    """What prototypes are compared with, of every candidate."""
    network = model.bind(params)
    return network.head.embed(network.pooled(hidden_states(network, rows), rows))
