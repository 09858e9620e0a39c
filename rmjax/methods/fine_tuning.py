"""What a reward model is trained with beside its ranking loss, in full fine-tuning: contrast, MetaRM, prototypes.

A method says which head the model gets, how that begins, what is put around it in training, and its objective.
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
from rmjax.methods.proto_rm import first_prototypes, require_prototypes
from rmjax.models import heads
from rmjax.models.heads import HeadConfig, Linear
from rmjax.models.model import Model, Params
from rmjax.models.with_prototypes import WithPrototypes, around
from rmjax.objectives import contrastive, meta, prototypical
from rmjax.objectives.base import Objective, OwnGradient
from rmjax.objectives.contrastive import Form
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import packed_scores
from rmjax.objectives.scores import hidden_states
from rmjax.sharding import current_mesh
from rmjax.training.loop import Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain:
    """The ranking loss alone."""

    new_head: ClassVar[bool] = False  # a head of its own kind, begun on the training pairs: not a reward model's

    @property
    def head(self) -> HeadConfig:
        """Of a model that has none."""
        return Linear()

    def check(self, train: Train) -> None:
        """Raises UserError for a training that the method cannot use."""

    def objective(self, ranking: Pairwise) -> Objective | OwnGradient:
        """What is minimised, or whose direction is followed."""
        return ranking

    def first_head(self, model: Model, params: Params, groups: Sequence[Group], key: Array) -> Params:
        """The parameters that a new head begins with; `groups` are the training pairs."""
        return params["head"]

    def start(self, model: Model, params: Params, key: Array) -> tuple[Model, Params]:
        """The model and parameters that are trained."""
        return model, params

    def end(self, model: Model, params: Params) -> tuple[Model, Params]:
        """What is left of them for scoring."""
        return model, params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grm(Plain):
    """GRM (arXiv:2406.10216): the language model's own loss beside the ranking loss; `Pairwise` says how."""

    sft: float = 0.0  # share of the better answer's mean negative log-probability a token
    dpo: float = 0.0  # share of DPO without reference

    def __post_init__(self) -> None:
        require("method.", self, "sft", "dpo", least=0)
        if not self.sft and not self.dpo:
            raise UserError("method.sft and method.dpo are both 0: that is the ranking loss alone; set one")

    def objective(self, ranking: Pairwise) -> Pairwise:
        """What is minimised."""
        return dataclasses.replace(ranking, sft=self.sft, dpo=self.dpo)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCse(Plain):
    """L_ranking + beta SimCSE between two dropout passes (arXiv:2401.06080); a batch's other answers are negatives."""

    beta: float = 1.0  # the paper's
    form: Form = "direct"  # rows compared: all answers, or differences of chosen and rejected
    temperature: float = 0.05
    loss: ClassVar[Literal["simcse", "swav"]] = "simcse"

    def __post_init__(self) -> None:
        require("method.", self, "beta", least=0)
        require("method.", self, "temperature", above=0)
        if self.form not in ("direct", "difference"):
            raise UserError(f"method.form={self.form!r}: not one of direct, difference")

    def check(self, train: Train) -> None:
        """Raises UserError without dropout."""
        if not train.dropout:
            raise UserError(
                "train.dropout=0.0: the method compares two dropout passes; give a share (the paper's: 0.05)"
            )

    def objective(self, ranking: Pairwise) -> Objective:
        """What is minimised."""
        return contrastive.Contrastive(
            ranking=ranking, loss=self.loss, beta=self.beta, form=self.form, temperature=self.temperature
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swav(SimCse):
    """L_ranking + beta SwAV between two dropout passes (arXiv:2401.06080); prototypes are dropped from the export."""

    beta: float = 0.1  # the paper's; 0.5 for differences
    temperature: float = 0.1
    prototypes: int = 50  # the paper's; 20 for differences
    loss: ClassVar[Literal["simcse", "swav"]] = "swav"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("method.", self, "prototypes", least=2)

    def start(self, model: Model, params: Params, key: Array) -> tuple[Model, Params]:
        """With new prototypes beside the head."""
        model = model.with_head(WithPrototypes(of=model.head, count=self.prototypes))
        drawn = model.add_head({}, key, mesh=current_mesh())["head"]
        return model, {**params, "head": around(params["head"], drawn)}

    def end(self, model: Model, params: Params) -> tuple[Model, Params]:
        """Without the prototypes."""
        return model.with_head(model.head.of), {**params, "head": params["head"]["of"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaRm(Plain):
    """MetaRM (arXiv:2405.00438): the ranking gradient where unlabelled answers are told apart a step more clearly."""

    responses: str = ""  # prompts with two or more completions of the current policy; empty: the pairs', without labels
    answers: int = 5  # of a prompt at most, drawn with the seed where there are more; the paper's
    eta: float = 0.01  # step of the ascent along the raw gradient; not tuned (the paper: 5e-6, for a 7B model)

    def __post_init__(self) -> None:
        require("method.", self, "eta", least=0)
        require("method.", self, "answers", least=2)

    def objective(self, ranking: Pairwise) -> OwnGradient:
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
    new_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_prototypes("method.", self)
        require("method.", self, "embed", least=1)
        require("method.", self, "assignment", least=0)

    @property
    def head(self) -> HeadConfig:
        """A prototypical head, which has no prototype yet."""
        return heads.Prototypes(embed=self.embed, capacity=self.capacity, gamma=self.gamma, mix=self.mix)

    def objective(self, ranking: Pairwise) -> Objective:
        """What is minimised."""
        return prototypical.ProtoRm(ranking=ranking, assignment=self.assignment, diversity=self.diversity)

    def first_head(self, model: Model, params: Params, groups: Sequence[Group], key: Array) -> Params:
        """With prototypes from a forward pass over the training pairs (without those of weight 0), IMP's included.

        The projection is scaled first: embeddings lie at a mean square of 1 around their mean, which is the unit of
        `gamma`, `sigma` and the diversity's distance; the linear score stays what it was.
        """
        z = np.stack(packed_scores(model, params, groups, embedded, [2] * len(groups), batch=16, name="prototypes"))
        weight = np.array([g.weight[0] if len(g.weight) else 1.0 for g in groups], np.float32)
        smooth = np.array([g.smooth[0] if len(g.smooth) else 0.0 for g in groups], np.float32)
        spread = z[weight > 0].reshape(-1, z.shape[-1])
        scale = 1.0 / np.sqrt(max(np.mean(np.sum((spread - spread.mean(0)) ** 2, axis=-1)), 1e-12))
        head = params["head"]
        head = {**head, "projection": scale * head["projection"], "weight": head["weight"] / scale}
        z = scale * z
        found = first_prototypes(
            key,
            jnp.asarray(np.concatenate([z[:, 0], z[:, 1]])),
            jnp.asarray(weight),
            jnp.asarray(smooth),
            start_with=self.start_with,
            init=self.init,
            capacity=self.capacity,
            sigma=self.sigma,
            alpha=self.alpha,
        )
        return {**head, **jax.tree.map(np.asarray, found)}


def embedded(model: Model, params: Params, rows: Rows) -> Float[Array, "b c d"]:
    """What prototypes are compared with, of every candidate."""
    network = model.bind(params)
    return network.head.embed(network.pooled(hidden_states(network, rows), rows))
