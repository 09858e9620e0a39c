"""What needs no reward model: the longer answer wins, the shorter wins, a prompt-blind bag of words.

They stand beside every accuracy. A reward model that does not beat them has learnt nothing about the prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore, from_scores
from rmjax.records import Preference

LONGER, SHORTER, WORDS = "longer answer wins", "shorter answer wins", "bag of words, prompt-blind"


def longer(items: Sequence[Preference]) -> list[ItemScore]:
    """The answer with more characters wins; equal lengths tie."""
    return from_scores(items, lengths(items))


def shorter(items: Sequence[Preference]) -> list[ItemScore]:
    """The answer with fewer characters wins; equal lengths tie."""
    return from_scores(items, -lengths(items))


def lengths(items: Sequence[Preference]) -> np.ndarray:
    """[n, 2] float64: the characters of each chosen and rejected answer."""
    return np.array([(len(p.chosen), len(p.rejected)) for p in items], np.float64).reshape(-1, 2)


@dataclasses.dataclass(frozen=True)
class BagOfWords:
    """A Bradley-Terry model (1952) on hashed words and word pairs of the answer alone; it never sees the prompt.

    Logistic regression on the difference of the two answers' features. Each pair enters in both orders, so that no
    intercept can learn which side was stored first.
    """

    features: HashingVectorizer
    classifier: LogisticRegression

    @classmethod
    def fit(cls, train: Sequence[Preference], *, penalty: float = 10.0) -> BagOfWords:
        """Fits the model.

        Args:
            train: labelled pairs; ties carry no label here and are left out. Use those that the method saw.
            penalty: L2 strength (scikit-learn's 1 / C). Not tuned on any evaluation set.

        Raises:
            UserError: there is no pair to learn from.
        """
        train = [p for p in train if not p.tie]
        if not train:
            raise UserError("the bag-of-words baseline has no labelled pair to train on; give train pairs without ties")
        features = HashingVectorizer(n_features=2**18, ngram_range=(1, 2), binary=True, norm=None)
        x = _difference(features, train)
        classifier = LogisticRegression(C=1 / penalty, fit_intercept=False, solver="liblinear", max_iter=1000)
        classifier.fit(scipy.sparse.vstack([x, -x]), np.repeat([1, 0], len(train)))
        return cls(features, classifier)

    def __call__(self, items: Sequence[Preference]) -> list[ItemScore]:
        """Outcomes with probabilities; answers that are the same words tie."""
        margins = _difference(self.features, items) @ self.classifier.coef_[0]
        return from_scores(items, np.stack([margins, np.zeros_like(margins)], 1), logistic=True)


def _difference(features: HashingVectorizer, items: Sequence[Preference]) -> scipy.sparse.csr_matrix:
    """[n, 2**18] float64: features of the chosen minus features of the rejected answer."""
    return features.transform([p.chosen for p in items]) - features.transform([p.rejected for p in items])


def trivial(items: Sequence[Preference], train: Sequence[Preference] = ()) -> dict[str, list[ItemScore]]:
    """All trivial baselines by name; the bag of words only where there are train pairs."""
    scores = {LONGER: longer(items), SHORTER: shorter(items)}
    if train:
        scores[WORDS] = BagOfWords.fit(train)(items)
    return scores
