"""A generative judge: a policy, a prompt and a way to sample; items in, judgments out."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmjax import distributed, jsonl
from rmjax.errors import UserError
from rmjax.judging.asks import SLOTS, Ask, Order, Orders, key_of, on_file, remaining, slots_of
from rmjax.judging.prompts import VERDICTS, JudgePrompt
from rmjax.judging.rescoring import token_scores
from rmjax.judging.verdicts import Labels, parse
from rmjax.records import Judgment, Preference, Rollout, Slot
from rmjax.sampling import shards
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """Judges pairs. Change a part with `dataclasses.replace`: other parameters, another seed, greedy sampling."""

    model: Any
    params: Any
    chat: Any
    prompt: JudgePrompt
    sampling: Sampling
    _: dataclasses.KW_ONLY
    seed: int
    constrained: bool = False  # where the sampled text holds no verdict, force one after its reasoning
    quiet: bool = False  # no progress bar

    def __post_init__(self) -> None:
        if self.sampling.watch or self.sampling.allowed:
            raise UserError("sampling.watch and sampling.allowed are the judge's own (its labels): leave both empty")

    def judgments(
        self,
        items: Sequence[Preference],
        *,
        samples: int,
        orders: Orders = "both",
        first: int = 0,
        path: Path | None = None,
    ) -> list[Judgment]:
        """Samples judgments number first..first+samples-1 of every item.

        Args:
            items: pairs with distinct ids.
            samples: judgments per item (votes); with orders="both", per item and order.
            orders: which slot holds the chosen answer. "both": all samples in either order. "random": drawn per
                sample, balanced: of samples 2i and 2i+1 each takes one order. "item": drawn once per item. "chosen_a",
                "chosen_b": always that slot. Draws are keyed by (seed, item id), so other items and their order do
                not matter, and a larger `samples` only adds judgments.
            first: number of the first sample, to add to an earlier call.
            path: JSONL file of judgments. Those that it holds are not sampled again; an interrupted call resumes.

        Returns:
            Judgments by item, then slot, then index (counted per item and slot).

        Raises:
            UserError: ids that repeat, samples < 1 or several greedy ones, unknown orders, a file of another prompt.
        """
        if samples < 1:
            raise UserError(f"samples={samples}: a judge needs at least 1 sample per item")
        if samples > 1 and self.sampling.temperature == 0:
            raise UserError(f"samples={samples} at temperature=0 are all alike: set samples=1 or a higher temperature")
        asks = []
        for item in items:
            for slot, numbers in slots_of(item.id, orders, range(first, first + samples), seed=self.seed).items():
                asks.append(Ask(item, slot, numbers.start, len(numbers), self.prompt_ids(item, slot)))
        return self._answer(asks, path)

    def further(
        self, items: Sequence[Preference], asked: Mapping[Order, int], *, samples: int, path: Path | None = None
    ) -> list[Judgment]:
        """Samples more judgments of slot orders that were asked before.

        Args:
            items: pairs with distinct ids; those that `asked` does not name are not asked.
            asked: (item id, slot of the chosen answer) -> how many judgments of it there are.
            samples: further judgments of each.
            path: as in `judgments`.
        """
        if self.sampling.temperature == 0:
            raise UserError("further samples at temperature=0 are all alike: set a higher temperature")
        asks = [
            Ask(item, slot, asked[item.id, slot], samples, self.prompt_ids(item, slot))
            for item, slot in itertools.product(items, SLOTS)
            if (item.id, slot) in asked
        ]
        return self._answer(asks, path)

    def hinted(
        self,
        items: Sequence[Preference],
        wanted: Collection[tuple[str, Slot, Slot]],
        *,
        samples: int,
        path: Path | None = None,
    ) -> list[Judgment]:
        """Samples judgments whose prompt names the verdict to reach; they keep that prompt and its log-probabilities.

        Args:
            items: pairs with distinct ids; those that `wanted` does not name are not asked.
            wanted: (item id, slot of the chosen answer, verdict that the hint names).
            samples: judgments of each.
            path: as in `judgments`.
        """
        asks = [
            Ask(item, slot, 0, samples, self.prompt_ids(item, slot, hint), hint)
            for item, slot, hint in itertools.product(items, SLOTS, SLOTS)
            if (item.id, slot, hint) in wanted
        ]
        return self._answer(asks, path)

    def prompt_ids(self, item: Preference, slot: Slot, hint: Slot | None = None) -> tuple[int, ...]:
        """Token ids of the rendered judge prompt."""
        return tuple(self.chat.prompt_ids(self.prompt.render(item, slot, hint)))

    @property
    def longest(self) -> int:
        """Tokens of the longest judgment: what may be sampled and, where a verdict may be forced, that verdict."""
        if not self.constrained:
            return self.sampling.max_new_tokens
        verdict = len(self.chat.text_ids(self.prompt.prefix)) + 1 + len(self.chat.completion_ids(self.prompt.suffix))
        return self.sampling.max_new_tokens + verdict

    def fits(self, item: Preference) -> bool:
        """Whether the item's prompt, in either slot order, and the longest judgment are within the model's positions.

        Nothing else looks: a longer one is judged all the same, by a model that was never trained to read so far.
        """
        return max(len(self.prompt_ids(item, s)) for s in SLOTS) + self.longest <= self.model.config.max_positions

    def _answer(self, asks: Sequence[Ask], path: Path | None) -> list[Judgment]:
        """The judgments asked for: those on file, and the rest sampled now and written with them, whole."""
        times = Counter(ask.id for ask in asks)
        if (twice := next((a.item.id for a in asks if times[a.id] > 1), None)) is not None:
            raise UserError(f"item id {twice!r} repeats: give every pair its own id")
        known = distributed.first(lambda: on_file(path, asks)) if path else {}
        unfinished = path.with_suffix(".rollouts.jsonl") if path else None
        missing = [rest for ask in asks if (rest := remaining(ask, known)) is not None]
        if missing:
            known |= {key_of(j): j for j in self._sample(missing, unfinished)}
        if path:
            if missing:
                jsonl.write(path, list(known.values()))
            shards.remove(unfinished)  # also where a kill came between the two
        return [known[key] for ask in asks for key in ask.keys]

    def _sample(self, asks: Sequence[Ask], path: Path | None) -> list[Judgment]:
        labels = Labels.of(self.chat, self.prompt)
        if self.constrained:
            labels.require_forced(self.prompt)
        sampling = dataclasses.replace(self.sampling, watch=labels.watch)
        requests = [Request(id=a.id, prompt=a.prompt, samples=a.samples, first=a.first) for a in asks]
        rollouts = self._run(sampling, requests, path, "judging")
        by_id = {ask.id: ask for ask in asks}
        judgments = [self._read(by_id[rollout.id], rollout, labels) for rollout in rollouts]
        return self._force(judgments, labels) if self.constrained else judgments

    def _run(self, sampling: Sampling, requests: Sequence[Request], path: Path | None, label: str) -> list[Rollout]:
        sampler = Sampler(self.model, self.params, self.chat, sampling, seed=self.seed, quiet=self.quiet)
        return sampler.run(requests, path=path, label=label)

    def _read(self, ask: Ask, rollout: Rollout, labels: Labels) -> Judgment:
        """Reads the verdict out of a rollout."""
        parsed = parse(rollout.tokens, self.chat, self.prompt)
        prob_a = None
        if parsed.index is not None and labels.watch:
            prob_a = labels.prob_a(rollout.tokens[parsed.index], rollout.watched[parsed.index])
        return Judgment(
            item=ask.item.id,
            slot=ask.slot,
            index=rollout.index,
            prompt=ask.prompt,
            tokens=rollout.tokens,
            logps=rollout.logps,
            reasoning=parsed.reasoning,
            text=rollout.text,
            verdict=parsed.verdict,
            prob_a=prob_a,
            finish=rollout.finish,
            hint=ask.hint,
        )

    def _force(self, judgments: Sequence[Judgment], labels: Labels) -> list[Judgment]:
        """Gives every unparsed judgment a verdict: its reasoning, the forced prefix, one of the labels, the end.

        A verdict that was sampled freely stays: given its reasoning it is a draw from the same distribution. Forced
        tokens are no draw of the policy's, so the log-probabilities of the whole completion are computed anew by
        teacher forcing.
        """
        broken = {key_of(j): j for j in judgments if j.verdict is None}
        requests = [
            Request(id=f"{j.item}|{j.slot}|{j.hint}|{j.index}|verdict", prompt=(*j.prompt, *kept(j), *labels.prefix))
            for j in broken.values()
        ]
        if not requests:
            return list(judgments)
        chosen = Sampling(
            temperature=self.sampling.temperature, max_new_tokens=1, watch=labels.watch, allowed=labels.forced
        )
        end = self.chat.completion_ids(self.prompt.suffix)
        forced = {}
        for (key, old), rollout in zip(broken.items(), self._run(chosen, requests, None, "verdicts"), strict=True):
            label = rollout.tokens[0]
            tokens = (*kept(old), *labels.prefix, label, *end)
            forced[key] = dataclasses.replace(
                old,
                tokens=tokens,
                text=self.chat.text(tokens),
                verdict=VERDICTS[labels.forced.index(label)],
                prob_a=labels.prob_a(label, rollout.watched[0]),
                finish="stop",
                forced=True,
            )
        scores = token_scores(self.model, self.params, [(j.prompt, j.tokens) for j in forced.values()])
        for (key, j), logps in zip(forced.items(), scores, strict=True):
            forced[key] = dataclasses.replace(j, logps=tuple(map(float, logps)))
        return [forced.get(key_of(j), j) for j in judgments]


def kept(judgment: Judgment) -> tuple[int, ...]:
    """The reasoning's tokens."""
    return judgment.tokens[: judgment.reasoning]
