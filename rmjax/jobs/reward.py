"""A scalar reward model as a Hugging Face directory: read, scored, written, and read again before it is trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console

from rmjax import json_file
from rmjax.bounds import require
from rmjax.data.contract import FILE, TokenContract, saved_contract
from rmjax.data.rows import Group
from rmjax.data.text_pair import TextPair
from rmjax.decoding import decode
from rmjax.errors import UserError
from rmjax.evaluation.calibrator import Calibrator
from rmjax.jobs.lengths import Policy, Record, kept
from rmjax.jobs.sources import OFF, ModelSource
from rmjax.methods import nearest
from rmjax.methods.bradley_terry import groups_of
from rmjax.models import head_file, hf
from rmjax.models.config import EncoderConfig, Lora
from rmjax.models.head_file import StandIn
from rmjax.models.model import Model
from rmjax.models.pooling import Pool
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Demonstration, Preference
from rmjax.sampling.journal import fingerprint
from rmjax.sharding import current_mesh
from rmjax.training import features

console = Console()
ORIGIN, CALIBRATION = "rmjax_reward.json", "rmjax_calibration.json"
Overlong = Literal["auto", "error", "drop", "cut"]  # cut: encoders only, as `TextPair.cut` says
PROBES, TOLERANCE = 8, 1e-4  # pairs scored again after an export, and the most that a score may differ
CUTS = {"prompt_cut": "the front of the prompt is cut", "answer_cut": "the end of an answer is cut"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairLengths:
    """What becomes of pairs that are longer than the model reads.

    error refuses them, drop leaves them out, cut (encoders only) takes the prompt's front, then the answer's end.
    """

    max_length: int = 0  # tokens of prompt and answer together; 0: the model's own positions
    train: Overlong = "auto"  # pairs to train on: error, drop or cut; auto: a decoder drops, an encoder cuts
    evaluation: Overlong = "auto"  # held-out pairs: error, drop or cut; auto: a decoder refuses them, an encoder cuts

    def __post_init__(self) -> None:
        require("lengths.", self, "max_length", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModel:
    """A model with a head, its parameters and its token contract."""

    model: Model
    params: Any
    chat: TokenContract

    def groups(self, items: Sequence[Preference | Demonstration]) -> list[Group]:
        """Each item in tokens; an encoder's over-long ones are cut, as its contract says."""
        return self._limited(items)[0]

    def _limited(self, items: Sequence[Preference | Demonstration]) -> tuple[list[Group], Mapping[str, int]]:
        groups = self._whole(items)
        if not isinstance(self.chat, TextPair):
            return groups, {}
        limited = self.chat.cut(groups)
        return limited.groups, limited.dropped

    def _whole(self, items: Sequence[Preference | Demonstration]) -> list[Group]:
        return [group for item in items for group in self._groups(item)]

    def _groups(self, item: Preference | Demonstration) -> list[Group]:
        if isinstance(item, Preference):
            return groups_of(self.chat, [item])
        completion = self.chat.completion_ids(item.completion)
        return [Group(id=item.id, prompt=self.chat.prompt_ids(item.prompt), completions=[completion])]

    def rewards(self, items: Sequence[Preference | Demonstration]) -> Float[np.ndarray, "n k"]:
        """The rewards, float32, of each item's chosen and rejected answer (k = 2) or one response, uncalibrated."""
        return np.stack(slot_scores(self.model, self.params, self.groups(items), Scalar()))

    def texts(self, items: Sequence[Preference]) -> list[tuple[str, ...]]:
        """What is scored of each item, special tokens shown: prompt with chosen, prompt with rejected answer."""
        text = self.chat.tokenizer.decode
        return [tuple(text([*g.prompt_of(i), *c]) for i, c in enumerate(g.completions)) for g in self.groups(items)]

    def fitting(self, items: Sequence[Record], *, most: int, policy: Policy, what: str) -> list[Record]:
        """The items whose prompt with the longer answer a decoder can read, by the policy.

        An encoder reads all: its contract cuts them, which is counted in the terminal.

        Args:
            most: tokens at most; 0: the model's own positions.
        """
        groups, cut = self._limited(items)
        if isinstance(self.chat, TextPair):
            for how, n in cut.items():
                console.print(f"{what}: {n:,} of {len(groups):,} longer than {self.chat.length} tokens: {CUTS[how]}")
            return list(items)
        most = most or self.model.config.max_positions
        mend = "shorten or drop them (--help names the policy), or use a model with more positions"
        return kept(items, needs(groups), most, policy=policy, what=what, parts=("prompt", "answer"), mend=mend)

    def limited(
        self, items: Sequence[Record], *, most: int, policy: Overlong, usual: Policy, flag: str, what: str
    ) -> list[Record]:
        """The items that are left under a policy that a user chose for this very kind of model.

        Args:
            most: as in `fitting`; an encoder's contract has it already.
            usual: what `auto` means for a decoder; an encoder cuts.
            flag: the policy's name on the command line.

        Raises:
            UserError: `cut` for a decoder; an item is too long and the policy is `error`; none is left.
        """
        encoder = isinstance(self.chat, TextPair)
        if policy == "cut" and not encoder:
            raise UserError(f"{flag} cut: a decoder's pairs are never cut; give error or drop")
        if policy in ("auto", "cut"):
            return self.fitting(items, most=most, policy=usual, what=what)
        if not encoder:
            return self.fitting(items, most=most, policy=policy, what=what)
        mend = f"shorten them, or give {flag} cut or drop"
        parts = ("prompt", "answer")
        return kept(
            items, needs(self._whole(items)), self.chat.length, policy=policy, what=what, parts=parts, mend=mend
        )


def needs(groups: Sequence[Group]) -> list[tuple[int, int]]:
    """Tokens of each group's prompt and of its longest answer."""
    return [(len(g.prompt), max(map(len, g.completions))) for g in groups]


def load_model(source: ModelSource, *, length: int = 0, flag: str = "--max-length", lora: Lora = OFF) -> RewardModel:
    """A decoder or encoder with its token contract; it may lack a head.

    Args:
        length: tokens of an encoder's pair at most; 0: what it was trained with, or else its positions.
        flag: the length's name on the command line.
        lora: of the adapters that will be trained, but are not there yet (`ModelSource.network`).

    Raises:
        UserError: what the loaders refuse, a template for an encoder, which has none, or a length that it cannot read
            or was not trained with.
    """
    directory = source.directory()
    found = hf.load_model(directory)
    if not isinstance(found.config, EncoderConfig):
        model, params, chat = source.load(lora)
        return RewardModel(model=model, params=params, chat=chat)
    if source.template != "auto":
        raise UserError(f"--model.template {source.template}: an encoder reads a pair of texts; leave it auto")
    length = pair_length(directory, found, length, flag)
    model, params = source.network(lora)
    return RewardModel(
        model=model, params=params, chat=TextPair.load(directory, length=length, vocab=model.config.vocab)
    )


def pair_length(directory: Path, model: Model, asked: int, flag: str) -> int:
    """The most tokens of an encoder's pair: what was asked for, its contract's or its positions.

    Raises:
        UserError: more than the model has positions, or not what its contract says.
    """
    saved = (saved_contract(directory) or {}).get("length", 0)
    if asked and saved and asked != saved:
        raise UserError(f"{flag} {asked}: {directory} was trained with pairs of at most {saved} tokens; leave it 0")
    if asked > model.context:
        raise UserError(
            f"{flag} {asked}: {directory} has {model.context} positions; give at most {model.context}, or 0 for all"
        )
    if saved > model.context:
        raise UserError(
            f"{directory / FILE}: field 'length' is {saved}, but the model has {model.context} positions; train it "
            f"again with at most {model.context}"
        )
    return asked or saved or model.context


def load_reward(source: ModelSource, *, length: int = 0) -> RewardModel:
    """The reward model of a directory: one that was exported here, or any classifier with one label.

    Raises:
        UserError: no reward head, a weight that is not a number, or anything that `load_model` refuses.
    """
    headless = UserError(
        f"--model.path {source.path}: a model without a reward head (config.json names no "
        "...ForSequenceClassification); train one first: python -m rmjax.launch train"
    )
    if not source.adapter and hf.load_model(source.directory()).head is None:
        raise headless
    reward = load_model(source, length=length)
    if reward.model.head is None:  # nor has the adapter one
        raise headless
    for path, leaf in jax.tree_util.tree_leaves_with_path(reward.params):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            name = ".".join(str(key.key) for key in path)
            raise UserError(
                f"--model.path {source.path}: parameter {name} holds NaN or infinity; export the model again"
            )
    return reward


def export_reward(
    path: Path,
    reward: RewardModel,
    source: ModelSource,
    probes: Sequence[Preference],
    *,
    origin: Mapping[str, Any],
    known: tuple[Float[np.ndarray, "n 2 f"], Float[np.ndarray, "n 2"]] | None = None,
    linear: StandIn | None = None,
) -> float:
    """Writes the directory, reads it again and compares the rewards of a few pairs; returns the largest difference.

    Adapters are added to their matrices, and int8 weights written as what they stand for: the plain model that is left
    is what is compared with. By how much its rewards differ from those of the model that was trained is printed.

    transformers loads it as AutoModelForSequenceClassification with one label. Where it has no class for the head or
    its pooling, the exact head goes into files of its own, which rmjax reads, and transformers gets the nearest linear
    one, whose gap is printed and kept (`models/head_file.py`, `methods/nearest.py`).

    Args:
        source: how the model was loaded; its dtype is that of the comparison.
        probes: pairs, of which the first `PROBES` are scored again; on all of them, without their labels, the nearest
            linear head is fitted.
        origin: what the model was made from; kept beside the weights.
        known: of the probes, features as `nearest.pool` says and rewards, where they have been computed already.
        linear: the nearest linear head that the model came with; it stays where a new one would not be nearer.

    Raises:
        UserError: the directory cannot be written, or what it holds scores differently.
    """
    chat, before, linear = reward.chat, linear, None
    few, given = probes[:PROBES], reward
    if not given.model.plain:
        reward = merged(given)
        gap = float(np.abs(given.rewards(few).astype(np.float64) - reward.rewards(few)).max())
        console.print(f"merged for the export: rewards change by at most {gap:.0e}")
    if not hf.expressible(reward.model):
        if known is None:
            known = features_of(reward, nearest.pool(reward.model), probes), reward.rewards(probes)
        prompts = [p.prompt for p in probes]
        linear, gap = nearest.stand_in(reward.model, reward.params, *known, prompts, known=before)
        which = "nearest linear one" if linear is not before else "linear one that the model came with"
        console.print(f"transformers has no class for this head and gets the {which}: {gap.words}")
        if not gap.useful:
            console.print(
                f"[bold]of little use[/]: it explains {100 * max(gap.explained, 0):.0f} % of the exact differences; "
                "score with rmjax"
            )

    def files(folder: Path) -> None:
        chat.save(folder)
        json_file.write(folder / ORIGIN, origin)

    hf.save(
        path,
        reward.model,
        reward.params,
        tokenizer=chat.tokenizer,
        eos=chat.eos,
        pad=chat.pad,
        files=files,
        stand_in=linear,
    )
    wanted, reward = reward.rewards(few), given  # merged parameters make room for those that are read
    back = load_reward(source.plain(path))
    difference = rewards_differ(path, wanted, back.rewards(few), "the trained one's")
    if linear is not None:
        said = linear_part(reward, path).rewards(few)
        meant = dataclasses.replace(reward, model=linear.model, params=linear.params).rewards(few)
        rewards_differ(path, meant, said, "the linear head's that was fitted, in what transformers reads,")
    return difference


def merged(reward: RewardModel) -> RewardModel:
    """The plain model that scores alike: no adapters, all parameters float32."""
    model, params = reward.model.merged(reward.params, mesh=current_mesh())
    return dataclasses.replace(reward, model=model, params=params)


def rewards_differ(path: Path, before: np.ndarray, after: np.ndarray, whose: str) -> float:
    """The largest difference of rewards. UserError where it is more than `TOLERANCE`."""
    difference = float(np.abs(before.astype(np.float64) - after).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: the exported model's rewards differ by {difference:.1e} from {whose} (allowed: "
            f"{TOLERANCE:.0e}); do not use it, and report this with run.json"
        )
    return difference


def features_of(reward: RewardModel, pool: Pool, items: Sequence[Preference]) -> Float[np.ndarray, "n 2 f"]:
    """Pooled features of both answers of pairs."""
    trunk = {name: branch for name, branch in reward.params.items() if name != "head"}
    return np.stack(features.compute(reward.model.with_head(None, pool), trunk, reward.chat, items), axis=1)


def linear_part(reward: RewardModel, path: Path) -> RewardModel:
    """What transformers reads of an exported directory, with the dtype of `reward`."""
    model, params = hf.load_stand_in(path)
    return dataclasses.replace(reward, model=model.with_config(dtype=reward.model.config.dtype), params=params)


def stand_in_of(reward: RewardModel, path: Path) -> StandIn | None:
    """The linear head beside the exact one of the directory that `reward` is from; None where there is no exact one."""
    if not hf.has_exact_head(path):
        return None
    part = linear_part(reward, path)
    return StandIn(model=part.model, params=part.params, nearest=head_file.read(path).nearest)


def origin_of(path: Path) -> Mapping[str, Any]:
    """What an export says that it was made from; nothing for a directory from elsewhere."""
    file = path / ORIGIN
    found = json_file.read(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: not an export's origin; export the model again, or remove the file")
    return found


def save_calibrator(path: Path, found: Calibrator, reward: RewardModel, **facts: Any) -> None:
    """Puts a calibrator beside the weights that it was fitted for."""
    content = {"calibrator": dataclasses.asdict(found), "weights": fingerprint(reward.params), **facts}
    json_file.write(path / CALIBRATION, content)


def load_calibrator(path: Path, reward: RewardModel) -> tuple[Calibrator, Mapping[str, str]] | None:
    """The calibrator beside the weights, and the hashes of the files that it was fitted on; None where there is none.

    Raises:
        UserError: it belongs to other weights, or is none.
    """
    file = path / CALIBRATION
    if not file.is_file():
        return None
    content = json_file.read(file)
    if not isinstance(content, dict) or not {"calibrator", "weights"} <= content.keys():
        raise UserError(f"{file}: not a calibrator; run the calibrate job again, or remove the file")
    if content["weights"] != fingerprint(reward.params):
        raise UserError(f"{file}: was fitted for other weights; run the calibrate job again, or remove the file")
    return decode(content["calibrator"], Calibrator, str(file), "calibrator"), dict(content.get("data", {}))
