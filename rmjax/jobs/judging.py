"""A judge as who labels: RLAIF's, and the one that sells labels to the proxy oracle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rmjax.jobs.evaluation import Evaluation
from rmjax.jobs.export import load_judge, saved_prompt
from rmjax.jobs.sources import ModelSource
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JSON_JUDGE
from rmjax.judging.verdicts import Labels
from rmjax.oracles.judged import JudgeOracle
from rmjax.refine.writers import Generator
from rmjax.sampling.policy import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """Who judges, and how."""

    model: ModelSource = ModelSource()  # no path: the generator itself, where there is one
    max_new_tokens: int = 512  # of a judgment
    evaluation: Evaluation = Evaluation()

    def oracle(
        self, path: Path, *, seed: int, source: ModelSource | None = None, loaded: Generator | None = None
    ) -> JudgeOracle:
        """The judge as an oracle of its model's name.

        Args:
            path: of its judgments.
            source: the model in the place of the settings' own; `loaded` is the same in memory.

        Raises:
            UserError: no model there, or no verdict can be forced.
        """
        how, source = self.evaluation, source or self.model
        prompt = saved_prompt(source.directory()) or JSON_JUDGE
        sampling = Sampling(temperature=how.temperature, max_new_tokens=self.max_new_tokens)
        if loaded is None:
            judge = load_judge(source.directory(), source, prompt, sampling, seed=seed)
        else:
            judge = Judge(loaded.model, loaded.params, loaded.chat, prompt, sampling, seed=seed)
        judge = dataclasses.replace(judge, constrained=how.constrained)
        if judge.constrained:
            Labels.of(judge.chat, prompt).require_forced(prompt)
        return JudgeOracle(judge, samples=how.votes, orders=how.orders, path=path, name=source.path)
