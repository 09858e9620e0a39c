"""A judge of the small world and its data as files, and the main job's command line, as a user would have them."""

import dataclasses
from pathlib import Path

import jax
import pytest
import tokenizers
import transformers

from rmjax import config, jsonl
from rmjax.data.text_pair import TextPair
from rmjax.jobs.gfriend import GfriendJob
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.train import TrainJob
from rmjax.models import hf
from rmjax.models.config import EncoderConfig
from rmjax.models.model import Model
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.worlds.judge_world import PROMPT, JudgeWorld
from rmjax.worlds.language import WORDS

ENCODER_POSITIONS = 24

# Small enough for a test. Verdicts are forced, for the model has hardly learnt to write.
SETTINGS = """
    --sft.steps 6 --sft.epochs 0 --sft.batch 16 --sft.optimizer.learning-rate 1e-3
    --method.samples 4 --method.sampling.max-new-tokens 24
    --method.train.steps 3 --method.train.epochs 0 --method.train.batch 4 --method.train.pairs-per-group 1
    --method.train.optimizer.learning-rate 1e-3 --method.train.save-every 2
"""


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """base/ (an untrained model), train.jsonl, held.jsonl, demonstrations.jsonl."""
    folder, world = tmp_path_factory.mktemp("world"), JudgeWorld()
    world.write_base(folder / "base")
    jsonl.write(folder / "train.jsonl", world.draw(labels=8, draw=0))
    jsonl.write(folder / "held.jsonl", world.preferences(12, split="test"))
    jsonl.write(folder / "demonstrations.jsonl", world.demonstrations(64))
    return folder


@pytest.fixture(scope="session")
def flags(files) -> list[str]:
    """The command line of the main job, without its workdir."""
    prompt = {"template": PROMPT.template, "system": "", "verdict": PROMPT.verdict, "prefix": PROMPT.prefix}
    given = {"model.path": files / "base", "data.path": files / "train.jsonl", "data.eval-path": files / "held.jsonl"}
    given |= {"demonstrations": files / "demonstrations.jsonl", "prompt.suffix": "", "prompt.hint": ""}
    given |= {f"prompt.{name}": value for name, value in prompt.items()}
    return [*SETTINGS.split(), *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


@pytest.fixture(scope="session")
def job(flags) -> GfriendJob:
    """The job of those flags."""
    return config.override(config.load("gfriend"), flags, name="gfriend")


@pytest.fixture(scope="session")
def finished(job, tmp_path_factory) -> GfriendJob:
    """A workdir in which the whole job ran."""
    done = dataclasses.replace(job, workdir=str(tmp_path_factory.mktemp("runs") / "whole"))
    done.run("python -m rmjax.launch gfriend")
    return done


@pytest.fixture(scope="session")
def trained(files, tmp_path_factory) -> TrainJob:
    """A workdir in which the training job of scalar reward models ran."""
    job = TrainJob(
        workdir=str(tmp_path_factory.mktemp("runs") / "reward"),
        model=ModelSource(path=str(files / "base")),
        data=Pairs(path=str(files / "train.jsonl"), eval_path=str(files / "held.jsonl")),
        train=Train(optimizer=Optimizer(learning_rate=1e-3), batch=2, steps=3, save_every=2, quiet=True),
    )
    job.run("python -m rmjax.launch train")
    return job


@pytest.fixture(scope="session")
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
        model_max_length=ENCODER_POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    model = Model.of(
        EncoderConfig(vocab=len(words), layers=1, embed=16, heads=2, mlp=32, max_positions=ENCODER_POSITIONS)
    )
    folder, pair = tmp_path_factory.mktemp("encoder") / "base", TextPair(tokenizer, length=ENCODER_POSITIONS)
    return hf.save(folder, model, model.init(jax.random.key(0)), tokenizer=tokenizer, pad=pair.pad, files=pair.save)
