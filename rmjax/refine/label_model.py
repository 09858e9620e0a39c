"""Votes of weak labelling functions, each with an accuracy that nobody knows, made into probabilities by EM.

    vote_ij in {+1, 0, -1}      function j on item i: the first answer is better, abstains, the second is better
    P(y = +1) = P(y = -1) = 1/2
    P(vote_ij = y | y, vote_ij != 0) = a_j           whatever y is, and independent of the other functions given y
    P(vote_ij = 0 | y) does not depend on y          an abstention says nothing

So the log-odds of y = +1 are the sum over the functions that vote of vote_ij log(a_j / (1 - a_j)), and EM alternates
two steps (Dawid and Skene 1979, with one parameter a function; Snorkel's label model, which arXiv:2410.20869 uses, has
the same conditional independence and class balance):

    E   p_i = sigmoid(sum_j vote_ij logit(a_j))
    M   a_j = (s m + sum_i p_i [vote_ij = +1] + (1 - p_i) [vote_ij = -1]) / (s + votes of j)

The likelihood is the same where every a_j is 1 - a_j, so something else must say which of the two mirror images is
meant. Without labels it is the start m > 1/2, which is a prior of s votes too: functions are right more often than not.
With the labels of some items m is 1/2, p_i of these items is their label, and EM begins at the accuracies that they
alone give: a function whose accuracy is found below 1/2 counts the other way round.

Which answer comes first does not matter: turning an item's votes (and label) around turns its probability around.

Departures: Snorkel fits by Adam on a matrix of moments with L2; EM climbs the likelihood itself, to the mirror image
that its start is nearer to. Snorkel takes no labels of items; that a few of them set directions is our addition.

Dimensions: n items, k functions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from rmjax.bounds import require
from rmjax.errors import UserError

SURE = 1e-6  # accuracies stay so far from 0 and 1


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What EM found."""

    accuracy: Float[np.ndarray, " k"]
    prob: Float[np.ndarray, " n"]  # that the first answer is better; 1/2 where all abstain, 1 or 0 where known
    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelModel:
    """EM over abstaining labelling functions, float64."""

    start: float = 0.7  # every function's accuracy before anything is seen, and its prior's mean; 1/2 with labels
    strength: float = 10.0  # votes that the prior counts for
    steps: int = 1000  # at most
    tolerance: float = 1e-7  # of accuracies, between two steps

    def __post_init__(self) -> None:
        require("label_model.", self, "start", above=0.5, below=1)
        require("label_model.", self, "strength", above=0)
        require("label_model.", self, "tolerance", least=0)
        require("label_model.", self, "steps", least=1)

    def check(self, votes: Int[np.ndarray, "n k"]) -> None:
        """Raises UserError for a vote that is none of +1, 0, -1, and where there is no vote at all."""
        if votes.ndim != 2 or not np.isin(votes, (-1, 0, 1)).all():
            raise UserError("votes: give one of +1, 0, -1 for each item and labelling function")
        if not votes.any():
            raise UserError(f"votes: all functions abstain on all {len(votes)} items; loosen them or add others")

    def fit(self, votes: Int[np.ndarray, "n k"], truth: Int[np.ndarray, " n"] | None = None) -> Fitted:
        """The functions' accuracies and the items' probabilities.

        Args:
            truth: +1 or -1 for the items whose label is known, else 0; None: no label is used.

        Raises:
            UserError: as `check`.
        """
        votes = np.asarray(votes)
        self.check(votes)
        prior = self.strength * (self.start if truth is None else 0.5)
        label = np.zeros(len(votes), int) if truth is None else np.asarray(truth)
        known = label != 0
        expect = lambda accuracy: np.where(known, label > 0, probability(votes, accuracy))
        maximise = lambda v, p: (prior + right(v, p)) / (self.strength + np.abs(v).sum(0))
        accuracy = maximise(votes[known], label[known] > 0)
        for step in range(1, self.steps + 1):  # noqa: B007 (read below)
            before, accuracy = accuracy, maximise(votes, expect(accuracy))
            if np.abs(accuracy - before).max() <= self.tolerance:
                break
        return Fitted(accuracy, expect(accuracy), step)


def right(votes: Int[np.ndarray, "n k"], prob: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """How many votes of each function are right, to be expected."""
    return np.where(votes > 0, prob[:, None], np.where(votes < 0, 1.0 - prob[:, None], 0.0)).sum(0)


def probability(votes: Int[np.ndarray, "n k"], accuracy: Float[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
    """That the first answer is better: the E step."""
    a = np.clip(np.asarray(accuracy, np.float64), SURE, 1 - SURE)
    return expit(votes @ np.log(a / (1 - a)))
