"""What needs no reward model: the longer answer wins, the shorter wins, a prompt-blind bag of words.

They stand beside every accuracy. A reward model that does not beat them has learnt nothing about the prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LogisticRegression

from rmjax.errors import UserError
from rmjax.evaluation.pairwise import Comparison, ItemScore, compare, from_scores, points
from rmjax.evaluation.tables import p_text
from rmjax.records import Preference
from rmjax.statistics import holm

PENALTY = 10.0  # L2, of the bag of words
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
    def fit(cls, train: Sequence[Preference], *, penalty: float = PENALTY) -> BagOfWords:
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
        features = _hashed()
        return cls(features, _classifier(_difference(features, train), penalty))

    def __call__(self, items: Sequence[Preference]) -> list[ItemScore]:
        """Outcomes with probabilities; answers that are the same words tie."""
        margins = _difference(self.features, items) @ self.classifier.coef_[0]
        return _from_margins(items, margins)


def cross_validated(
    items: Sequence[Preference], folds: Sequence[int], tested: Sequence[int], *, features: CountVectorizer | None = None
) -> list[ItemScore]:
    """The items of some folds, each scored by a bag of words that is fitted to the items of all other folds.

    Args:
        items: without ties.
        folds: of the items; those of one prompt in one fold.
        tested: the folds that are scored. Nothing is where one of them holds all items.
        features: how texts become words; None: as in `BagOfWords`.
    """
    of = np.asarray(folds)
    if any((of == k).all() for k in tested):
        return []
    x, margins = _difference(features or _hashed(), items), np.zeros(len(items))
    for k in np.intersect1d(tested, of):
        margins[of == k] = x[of == k] @ _classifier(x[of != k], PENALTY).coef_[0]
    scored = np.flatnonzero(np.isin(of, tested))
    return _from_margins([items[i] for i in scored], margins[scored])


def _hashed() -> HashingVectorizer:
    return HashingVectorizer(n_features=2**18, ngram_range=(1, 2), binary=True, norm=None)


def _difference(features: HashingVectorizer | CountVectorizer, items: Sequence[Preference]) -> scipy.sparse.csr_matrix:
    """[n, words] float64: features of the chosen minus features of the rejected answer."""
    counts = features.fit_transform([text for p in items for text in (p.chosen, p.rejected)]).astype(np.float64)
    return counts[::2] - counts[1::2]


def _classifier(x: scipy.sparse.csr_matrix, penalty: float) -> LogisticRegression:
    """Fitted to differences in both orders, without an intercept: no side is the usual one."""
    classifier = LogisticRegression(C=1 / penalty, fit_intercept=False, solver="liblinear", max_iter=1000)
    return classifier.fit(scipy.sparse.vstack([x, -x]), np.repeat([1, 0], x.shape[0]))


def _from_margins(items: Sequence[Preference], margins: np.ndarray) -> list[ItemScore]:
    return from_scores(items, np.stack([margins, np.zeros_like(margins)], 1), logistic=True)


def trivial(items: Sequence[Preference], train: Sequence[Preference] = ()) -> dict[str, list[ItemScore]]:
    """All trivial baselines by name; the bag of words only where there are train pairs."""
    scores = {LONGER: longer(items), SHORTER: shorter(items)}
    if train:
        scores[WORDS] = BagOfWords.fit(train)(items)
    return scores


def against(
    scores: Sequence[ItemScore], baselines: Mapping[str, Sequence[ItemScore]], *, name: str, seed: int
) -> list[Comparison]:
    """A method minus each baseline on the same items; p is McNemar's, raised by Holm's correction for all of them.

    Args:
        scores: the method's.
        baselines: as `trivial` gives them.
        name: the method's.
        seed: of the bootstrap.
    """
    found = [compare(scores, theirs, names=(name, baseline), seed=seed) for baseline, theirs in baselines.items()]
    over = f"p by Holm for {len(found)} baselines"
    return [
        dataclasses.replace(c, p=p, over=f"{c.over}, {over}")
        for c, p in zip(found, holm([c.p for c in found]), strict=True)
    ]


def verdict(found: Sequence[Comparison]) -> str:
    """In one sentence, whether the method differs from the most accurate baseline; `found` is what `against` gave."""
    best = min(found, key=lambda c: c.difference.value)
    where = "not distinguishable from"
    if best.distinguishable:
        where = "ahead of" if best.difference.value > 0 else "behind"
    return f"{best.a}: {where} {best.b}: {points(best.difference)}, p {p_text(best.p)}"
