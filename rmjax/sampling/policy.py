"""How a completion is drawn from a model: what a user sets."""

from __future__ import annotations

import dataclasses
import math

from rmjax.errors import UserError

COLDEST = 1e-6  # logits divided by less could overflow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, when a completion ends, and what is recorded beside it.

    The distribution of a token is changed in this order, as transformers does it:

    1. `allowed`: all other ids get probability 0;
    2. `temperature`: logits / temperature; 0 is greedy decoding (of equal logits, the lowest id);
    3. `top_k`: ids with a logit below the k-th largest get probability 0;
    4. `top_p`: of what is left, renormalised, the smallest set of most likely ids with a mass of at least top_p stays;
    5. `min_p`: ids less than min_p times as likely as the most likely one get probability 0.

    Ids of equal logits stay or go together, so more than k may stay. The log-probabilities that are recorded are the
    model's own: before step 1.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()  # a completion ends with the token in which the first of these strings is complete
    watch: tuple[int, ...] = ()  # ids whose log-probabilities are recorded at every token
    allowed: tuple[int, ...] = ()  # the only ids that may be drawn; empty: all

    def __post_init__(self) -> None:
        def require(name: str, fine: bool, rule: str) -> None:
            if not fine:
                raise UserError(f"sampling field {name}={getattr(self, name)!r}: {rule}")

        warm = COLDEST <= self.temperature < math.inf
        require("temperature", warm or self.greedy, f"use 0 (greedy) or a number from {COLDEST} upwards")
        require("top_k", self.top_k >= 0, "use 0 (off) or a positive number of ids")
        require("top_p", 0 < self.top_p <= 1, "use a mass above 0 and up to 1 (off)")
        require("min_p", 0 <= self.min_p <= 1, "use a share from 0 (off) to 1")
        require("max_new_tokens", self.max_new_tokens >= 1, "a completion needs at least 1 token")
        require("stop", all(self.stop) and not isinstance(self.stop, str), "use a tuple of strings, none empty")
        require("watch", all(i >= 0 for i in self.watch), "token ids are not negative")
        require("allowed", all(i >= 0 for i in self.allowed), "token ids are not negative")
        require("allowed", len(set(self.allowed)) == len(self.allowed), "an id is listed twice; list it once")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the model's own distribution."""
        return self == dataclasses.replace(self, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, allowed=())

    def check_vocab(self, size: int) -> None:
        """Raises UserError where an id is not one of a model with `size` embeddings."""
        for name in ("watch", "allowed"):
            beyond = [i for i in getattr(self, name) if i >= size]
            if beyond:
                raise UserError(f"sampling field {name}: id {beyond[0]} is beyond the model's {size} embeddings")
