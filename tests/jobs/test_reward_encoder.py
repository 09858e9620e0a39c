"""An encoder through the same jobs: trained, exported, read again, scored; over-long pairs are cut and counted."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
import transformers

from rmjax import jsonl
from rmjax.data.text_pair import TextPair
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore
from rmjax.jobs.reward import load_reward
from rmjax.jobs.score import ScoreJob
from rmjax.jobs.sources import ModelSource, PairFile, Pairs
from rmjax.jobs.train import TrainJob
from rmjax.models import hf
from rmjax.models.config import EncoderConfig
from rmjax.models.model import Model
from rmjax.records import Preference
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.worlds.language import WORDS

POSITIONS = 24


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A random encoder that knows the world's words; a conversation of the world hardly fits."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(w.lower() for w in WORDS)]
    words = list(dict.fromkeys(words))
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.BertNormalizer()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = [(name, words.index(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    model = Model.of(EncoderConfig(vocab=len(words), layers=1, embed=16, heads=2, mlp=32, max_positions=POSITIONS))
    folder, pair = tmp_path_factory.mktemp("encoder") / "base", TextPair(tokenizer, length=POSITIONS)
    return hf.save(folder, model, model.init(jax.random.key(0)), tokenizer=tokenizer, pad=pair.pad, files=pair.save)


@pytest.fixture(scope="module")
def trained_encoder(encoder, files, tmp_path_factory) -> TrainJob:
    job = TrainJob(
        workdir=str(tmp_path_factory.mktemp("runs") / "encoder"),
        model=ModelSource(path=str(encoder)),
        data=Pairs(path=str(files / "train.jsonl"), eval_path=str(files / "held.jsonl")),
        train=Train(optimizer=Optimizer(learning_rate=1e-3), batch=2, steps=2, quiet=True),
    )
    job.run("")
    return job


def test_it_is_trained_and_exported(trained_encoder, encoder):
    work = Path(trained_encoder.workdir)
    raw = json.loads((work / "export" / "config.json").read_text())
    assert raw["architectures"] == ["BertForSequenceClassification"] and raw["num_labels"] == 1
    before, after = (hf.load(p)[1]["encoder"] for p in (encoder, work / "export"))
    moved = [float(abs(a - b).max()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    assert max(moved) > 1e-4


def test_the_export_scores_as_transformers_does(trained_encoder, files):
    torch = pytest.importorskip("torch")
    path = Path(trained_encoder.workdir) / "export"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    reward, items = load_reward(ModelSource(path=str(path))), jsonl.read(files / "held.jsonl", Preference)[:3]
    score = lambda p, answer: theirs(**tokenizer(p.prompt[0].content, answer, return_tensors="pt")).logits.item()
    with torch.no_grad():
        found = [[score(p, p.chosen), score(p, p.rejected)] for p in items]
    np.testing.assert_allclose(reward.rewards(items), found, atol=1e-4)


def test_over_long_pairs_are_cut_and_counted(trained_encoder, files, tmp_path, capsys):
    held = jsonl.read(files / "held.jsonl", Preference)
    turn = held[0].prompt[0]
    long = dataclasses.replace(turn, content="music " * 2 * POSITIONS + turn.content)
    jsonl.write(tmp_path / "long.jsonl", [dataclasses.replace(held[0], prompt=(long,)), *held[1:]])
    job = ScoreJob(
        workdir=str(tmp_path / "w"),
        model=ModelSource(path=str(Path(trained_encoder.workdir) / "export")),
        data=PairFile(path=str(tmp_path / "long.jsonl")),
    )
    job.run("")
    assert "1 of 12 longer than 24 tokens" in " ".join(capsys.readouterr().out.split())
    ours = jsonl.read(tmp_path / "w" / "scores.jsonl", ItemScore)
    theirs = jsonl.read(Path(trained_encoder.workdir) / "evaluate" / "scores.jsonl", ItemScore)
    np.testing.assert_allclose([s.score_chosen for s in ours[1:]], [s.score_chosen for s in theirs[1:]], atol=1e-5)


def test_a_template_means_nothing_to_it(trained_encoder):
    source = ModelSource(path=str(Path(trained_encoder.workdir) / "export"), template="chat")
    with pytest.raises(UserError, match="an encoder reads a pair of texts"):
        load_reward(source)
