"""APO's information gain: pairs in directions that the labelled ones have not explored.

    d = phi(first) - phi(second),   V = ridge I + sum of d d' over labelled pairs,   next: argmax d' V^-1 d

(Das et al., "Active Preference Optimization", arXiv:2402.10500: the uncertainty bonus of its algorithm; the paper
weights V by sigmoid'(theta' d), which its code leaves out, and so do we.) Chosen greedily: each pair enters V before
the next one is chosen. V^-1 and all d' V^-1 d follow by Sherman and Morrison's rank-one update in float64, n f a pick:

    u = V^-1 d_j,  g = 1 + d_j' u:    d_i' V^-1 d_i  -=  (d_i' u)^2 / g,    V^-1  -=  u u' / g

The order of a pair's answers and the labels have no part in it. V starts from a Cholesky factor of the labelled pairs'.

Dimensions: n pairs, f features.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.refine.select import free


@dataclasses.dataclass(frozen=True)
class InformationGain:
    """The pairs whose score difference a linear head knows least about.

    Raises:
        UserError: (`choose`) a ridge so small beside the features that V cannot be factored.
    """

    ridge: float = 1e-5  # the authors' code; in units of the features' squares

    def __post_init__(self) -> None:
        require("information gain: ", self, "ridge", above=0)

    def choose(self, pool, count, *, labelled, seed):
        there = free(pool, count, labelled)
        pool.needs("first", "second", by="information gain")
        d = pool.first.astype(np.float64) - pool.second
        known = d[np.asarray(labelled, np.int64)]
        try:
            factor = cho_factor(self.ridge * np.eye(d.shape[1]) + known.T @ known)
        except np.linalg.LinAlgError as error:
            raise UserError(
                f"selection information gain: ridge={self.ridge:g} is too small for features of mean square "
                f"{np.mean(d**2):.3g}; give a larger one"
            ) from error
        inverse = cho_solve(factor, np.eye(d.shape[1]))
        gain, out = np.einsum("nf,nf->n", d @ inverse, d), np.empty(count, np.int64)
        for i in range(count):
            out[i] = j = np.argmax(np.where(there, gain, -np.inf))
            there[j] = False
            # einsum and not @: BLAS shares out products this small among threads, which wait longer than they compute.
            u = np.einsum("fg,g->f", inverse, d[j])
            scale = 1.0 + np.einsum("f,f->", d[j], u)
            gain -= np.square(np.einsum("nf,f->n", d, u)) / scale
            inverse -= np.outer(u, u) / scale
        return out
