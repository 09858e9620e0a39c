"""The proxy oracle (arXiv:2407.02119): few bought labels teach an evaluation model, and that labels the rest.

    0. the seed policy, where it has to be trained                   sft()
    1. responses of the seed policy, k for every prompt              responses.respond()
    2. pairs for sale, and which of them to buy under a budget       for_sale(), buy()
    3. an evaluation model, trained on the bought labels             evaluation_model()
    4. labels for prompts nobody bought one for: (highest, lowest)   label_rest()
    5. DPO from the seed policy on bought and given labels           dpo()

The direct way to spend the budget is 1, 2 and 5 on the bought labels alone. Nothing here reads a label that was not
bought. Equations, tests and deviations: docs/methods/proxy_oracle.md.

Dimensions: n pairs for sale, m members of an ensemble, k responses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from rmjax.bounds import require
from rmjax.data.loads import load
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.methods.responses import Policy, Responses
from rmjax.models.heads import Linear
from rmjax.models.model import Model, Params
from rmjax.models.pooling import pooled
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import packed_scores, slot_scores
from rmjax.objectives.scores import Implicit, Scalar
from rmjax.objectives.sft import Sft
from rmjax.oracles.budget import Budget
from rmjax.oracles.oracle import Oracle
from rmjax.records import Demonstration, Pair, Vote
from rmjax.refine.information import InformationGain
from rmjax.refine.k_center import KCenter
from rmjax.refine.select import OnPolicyMix, Pool, Random, Strategy
from rmjax.refine.uncertainty import ENSEMBLE, Margin
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxyOracle:
    """What the pipeline does after the seed policy is there."""

    responses: int = 4  # of every prompt (the paper's k is not known)
    budget: int = 1700  # labels that may be bought; the paper's
    start: float = 0.5  # share of them bought at random first: what an evaluation model that selects has learnt from
    selection: Strategy = Random()
    members: int = 3  # of the ensemble, for selections that ask one: each on its own resample of the labels
    per_label: int = 9  # labels that the evaluation model gives for each bought one; 0: all that it can
    min_gap: float = 0.0  # a pair is given no label unless its scores differ by more than this
    sampling: Sampling = Sampling(temperature=1.0, max_new_tokens=512)
    evaluator: Pairwise = Pairwise(score=Implicit(beta=0.1))  # score: Implicit, or Scalar for a head on the policy
    evaluator_train: Train = Train(optimizer=Optimizer(learning_rate=1e-6), batch=16, epochs=3)
    objective: Pairwise = Pairwise(score=Implicit(beta=0.1))
    train: Train = Train(optimizer=Optimizer(learning_rate=1e-6), batch=16, epochs=3)

    def __post_init__(self) -> None:
        require("method.", self, "responses", "members", least=2)
        require("method.", self, "budget", least=2)
        require("method.", self, "start", least=0, most=1)
        require("method.", self, "per_label", "min_gap", least=0)
        if self.sampling.greedy:
            raise UserError(
                "method.sampling.temperature=0: all responses to a prompt would be alike and make no pair; give a "
                "number above 0"
            )
        if not isinstance(self.objective.score, Implicit):
            raise UserError("method.objective.score: the policy is trained with DPO; use Implicit")
        if isinstance(self.selection, OnPolicyMix):
            raise UserError(
                "method.selection: all responses are on-policy here, so there is nothing to mix; choose another"
            )
        if self.first == self.budget and not isinstance(self.selection, Random):
            raise UserError(
                f"method.start={self.start:g}: all {self.budget:,} labels would be bought at random and none by "
                f"{type(self.selection).__name__}; give a smaller share, or choose random"
            )
        if isinstance(self.selection, (Margin, *ENSEMBLE)) and not self.first:
            raise UserError(
                f"method.start={self.start:g}: {type(self.selection).__name__} asks an evaluation model, which needs "
                "labels first; give a share above 0"
            )

    @property
    def first(self) -> int:
        """Labels that are bought at random; all of them where the selection is random."""
        return self.budget if isinstance(self.selection, Random) else round(self.start * self.budget)

    def check_pool(self, prompts: int) -> None:
        """Raises UserError where so many prompts cannot give every bought label its given ones."""
        need = (1 + self.per_label) * self.budget
        if prompts < need:
            raise UserError(
                f"{prompts:,} prompts with different responses: a budget of {self.budget:,} labels and "
                f"method.per_label={self.per_label} take {need:,}; give more prompts, or lower one of the two"
            )


@dataclasses.dataclass(frozen=True)
class Bought:
    """Pairs with the votes that were paid for."""

    pairs: tuple[Pair, ...]
    votes: tuple[Vote, ...]

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """Pair id -> (better, worse) place of its two answers; ties and "can't tell" teach nothing and are left out."""
        order = {"first": (0, 1), "second": (1, 0)}
        return {v.item: order[v.choice] for v in self.votes if v.choice in order}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """What scores responses."""

    model: Model
    params: Params
    objective: Pairwise

    def scores(self, responses: Sequence[Responses], *, batch: int = 16, length: int = 0) -> list[np.ndarray]:
        """One float32 array [k] a prompt: the score of each of its responses."""
        groups = [r.group() for r in responses]
        return slot_scores(self.model, self.params, groups, self.objective.score, batch=batch, length=length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Labels that the evaluation model gave, and what became of the prompts."""

    groups: tuple[Group, ...]
    pairs: Mapping[str, tuple[int, int]]  # prompt id -> (better, worse) response
    bought: int  # prompts left out because a label of theirs was bought
    close: int  # prompts whose highest and lowest score differ by no more than the least gap
    left: int  # prompts that were not needed any more


def sft(policy: Policy, demonstrations: Sequence[Demonstration], train: Train, folder: Path | None) -> Policy:
    """Step 0: the mean negative log-likelihood a token of demonstrated answers; prompts are masked."""
    chat = policy.chat
    groups = [
        Group(id=d.id, prompt=chat.prompt_ids(d.prompt), completions=[chat.completion_ids(d.completion)])
        for d in demonstrations
    ]
    params = fit(policy.model, policy.params, Sft(), groups, train, folder, name="SFT", contract=chat.contract())
    return dataclasses.replace(policy, params=params)


def for_sale(responses: Sequence[Responses]) -> list[Pair]:
    """One pair a prompt: the first two different responses, in the order of sampling, which says nothing of them."""
    return [Pair(prompt=r.prompt, first=r.texts[0], second=r.texts[1], id=r.id) for r in responses if len(r.texts) > 1]


def buy(policy: Policy, responses: Sequence[Responses], oracle: Oracle, method: ProxyOracle, *, seed: int) -> Bought:
    """Spends the budget: at random first, then on what the selection asks for.

    Args:
      oracle: never asked for more than `method.budget` pairs (`oracles.budget.Budget`).

    Raises:
      UserError: too few pairs, or rows too short for them (nothing is bought then); what the selection and the oracle
        raise.
    """
    purse = oracle if isinstance(oracle, Budget) else Budget(oracle, method.budget, part=method.budget)
    sold = [r for r in responses if len(r.texts) > 1]
    method.check_pool(len(sold))
    check_rows(policy, sold, method)
    pairs, places = for_sale(sold), np.empty(0, np.int64)
    votes: list[Vote] = []
    blank = Pool(on_policy=np.ones(len(pairs), bool))
    for count, strategy in ((method.first, Random()), (method.budget - method.first, method.selection)):
        if count:
            so_far = Bought(tuple(pairs[i] for i in places), tuple(votes))
            known = blank if isinstance(strategy, Random) else pool_of(policy, sold, so_far, method, seed=seed)
            new = strategy.choose(known, count, labelled=places, seed=seed)
            votes += purse.label([pairs[i] for i in new])
            places = np.concatenate([places, new])
    return Bought(tuple(pairs[i] for i in places), tuple(votes))


def check_rows(policy: Policy, sold: Sequence[Responses], method: ProxyOracle) -> None:
    """Raises UserError where a row is too short for a pair: better before a label is paid for than after."""
    most = max(load(r.group(*r.longest), share=policy.model.share).length for r in sold)
    for name in ("evaluator_train", "train"):
        length = getattr(method, name).length
        if 0 < length < most:
            raise UserError(
                f"method.{name}.length={length}: a prompt and two responses take up to {most} tokens; give that many, "
                "or 0"
            )


def pool_of(policy: Policy, sold: Sequence[Responses], bought: Bought, method: ProxyOracle, *, seed: int) -> Pool:
    """What the selection looks at, of every pair for sale: its features under the seed policy, or its scores."""
    strategy, length = method.selection, method.evaluator_train.length
    two = [dataclasses.replace(r, texts=r.texts[:2], tokens=r.tokens[:2], logps=r.logps[:2]) for r in sold]
    if isinstance(strategy, KCenter) and strategy.of == "prompt":
        last = [Group(id=r.id, prompt=r.ids[:-1], completions=[r.ids[-1:]]) for r in sold]
        return Pool(prompt=features(policy, last, ("mean",), length=length)[:, 0])
    if isinstance(strategy, KCenter | InformationGain):
        x = features(policy, [r.group() for r in two], ("answer",), length=length)
        return Pool(first=x[:, 0], second=x[:, 1])

    def differences(known: Bought, seed: int) -> Float[np.ndarray, " n"]:
        model = evaluation_model(policy, sold, known, method, seed=seed, name="selecting model")
        score = np.stack(model.scores(two, length=length))
        return score[:, 0] - score[:, 1]

    if isinstance(strategy, Margin):
        return Pool(differences=differences(bought, seed))
    seeds = range(seed, seed + method.members)
    return Pool(members=np.stack([differences(resampled(bought, seed=s), s) for s in seeds]))


def features(
    policy: Policy, groups: Sequence[Group], pool: tuple[str, ...], *, length: int
) -> Float[np.ndarray, "n k f"]:
    """The seed policy's pooled hidden states of every completion."""
    model = policy.model.with_head(None, pool)
    counts = [len(g.completions) for g in groups]
    return np.stack(packed_scores(model, policy.params, groups, pooled, counts, batch=16, length=length))


def resampled(bought: Bought, *, seed: int) -> Bought:
    """As many labels, drawn with repetition: a member of an ensemble."""
    rows = np.random.default_rng(seed).integers(len(bought.pairs), size=len(bought.pairs))
    return Bought(tuple(bought.pairs[i] for i in rows), tuple(bought.votes[i] for i in rows))


def bought_groups(responses: Sequence[Responses], bought: Bought) -> list[Group]:
    """The bought labels to train on, in the order of buying; a pair that was resampled twice is there twice.

    Raises:
      UserError: every vote is a tie or "can't tell".
    """
    by_id, order = {r.id: r for r in responses}, bought.groups
    groups = [by_id[v.item].group(*order[v.item]) for v in bought.votes if v.item in order]
    if not groups:
        raise UserError(f'{len(bought.votes)} bought labels: all are ties or "can\'t tell", which teach no preference')
    return groups


def evaluation_model(
    policy: Policy,
    responses: Sequence[Responses],
    bought: Bought,
    method: ProxyOracle,
    *,
    seed: int,
    folder: Path | None = None,
    name: str = "evaluation model",
) -> Evaluator:
    """Step 3, from the seed policy: `Implicit` trains the policy itself as a reward, `Scalar` a new head on it too."""
    model, params = policy.model, policy.params
    if isinstance(method.evaluator.score, Scalar):
        model = model.with_head(Linear())
        params = model.add_head(params, jax.random.key(seed))
    train = dataclasses.replace(method.evaluator_train, seed=seed)
    params = fit(
        model,
        params,
        method.evaluator,
        bought_groups(responses, bought),
        train,
        folder,
        name=name,
        contract=policy.chat.contract(),
        pool=[r.group(0, 1) for r in responses if len(r.texts) > 1],
    )
    return Evaluator(model, params, method.evaluator)


def label_rest(
    responses: Sequence[Responses], scores: Sequence[np.ndarray], bought: Bought, method: ProxyOracle
) -> Given:
    """Step 4: (highest, lowest) of every prompt's responses, in the prompts' order, until there are enough.

    Of equal scores the earlier response is taken.

    Args:
      scores: [k] a prompt.
    """
    taken = {p.id for p in bought.pairs}
    most = method.per_label * len(taken) or len(responses)
    pairs: dict[str, tuple[int, int]] = {}
    groups, close, left = [], 0, 0
    for r, score in zip(responses, scores, strict=True):
        if r.id in taken:
            continue
        high, low = int(np.argmax(score)), int(np.argmin(score))
        if not score[high] - score[low] > method.min_gap:
            close += 1
        elif len(groups) == most:
            left += 1
        else:
            pairs[r.id] = high, low
            groups.append(r.group(high, low))
    known = sum(r.id in taken for r in responses)
    return Given(groups=tuple(groups), pairs=pairs, bought=known, close=close, left=left)


def dpo(
    policy: Policy,
    groups: Sequence[Group],
    method: ProxyOracle,
    *,
    seed: int,
    folder: Path | None = None,
    pool: Sequence[Group] = (),
    name: str = "DPO",
) -> Policy:
    """Step 5: DPO from the seed policy, which is the reference; its log-probabilities are those recorded."""
    train = dataclasses.replace(method.train, seed=seed)
    contract = policy.chat.contract()
    params = fit(
        policy.model, policy.params, method.objective, groups, train, folder, name=name, contract=contract, pool=pool
    )
    return dataclasses.replace(policy, params=params)
