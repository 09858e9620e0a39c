"""The compile job: a tiny model through the TPU's own compiler, points that are kept, and mistakes in one line."""

import importlib.util
import json

import pytest

from rmjax import launch
from rmjax.errors import UserError
from rmjax.jobs import compile as job
from rmjax.jobs.compile import CompileJob, Found, Space
from rmjax.jobs.devices import Devices

TINY = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
ROW = ["--row.prompt", "64", "--row.completions", "2", "--row.completion", "32", "--row.pairs", "1"]
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed: pip install 'rmjax[tpu]'"
)


@pytest.mark.aot
@needs_compiler
def test_a_tiny_model_on_four_chips(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "prices.toml").write_text('hour = 4.8\ncurrency = "USD"\n')
    args = ["compile", "--model", str(tmp_path), "--topology", "v5e:2x2", "--workdir", str(tmp_path / "run"), *ROW]
    args += ["--prices", str(tmp_path / "prices.toml")]
    assert launch.main(args) == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    x = found["best"]["facts"]
    # Adam on four chips: three float32 numbers of each parameter, a quarter of them on each.
    parameters = 2 * 512 * 256 + 9 * (256 * 128 * 12 + 3 * 256 * 512)
    assert x["hbm"]["arguments"] == pytest.approx(parameters * 3, rel=0.05)
    assert 0 < x["hbm"]["peak"] < x["hbm"]["chip"]
    # Every matrix is gathered for the forward and for the backward pass in bfloat16, its gradient sent as bfloat16.
    matrices = 2 * (parameters - 512 * 256)
    assert x["collectives"]["all-gather"]["bytes"] == pytest.approx(2 * matrices, rel=0.1)
    assert x["loops_of_unknown_length"] == 0
    # Forward, again, and twice backward; less the down-projection, which no one needs again.
    assert x["flops_per_chip"] == pytest.approx(4 / 3 * x["model_flops"] / 4, rel=0.2)
    assert 0 < x["mfu"] < 1
    assert found["cost_of_a_million_tokens"] == pytest.approx(4.8 / 3600 / x["tokens_per_second"] * 1e6)
    assert "MFU" in capsys.readouterr().out

    monkeypatch.setattr(job, "estimate", lambda *_: pytest.fail("compiled what is known"))
    assert launch.main(args) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best"] == found["best"]


def test_without_the_compiler(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert launch.main(["compile", "--workdir", str(tmp_path)]) == 2
    assert "pip install 'rmjax[tpu]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_a_row(tmp_path, monkeypatch, capsys):
    """The search goes on, keeps what it knows, and names the fastest of those that fit."""
    asked = []

    def compiled(self, config, point, key):
        asked.append(point)
        fits = point.rows < 2 or point.microbatches > 1
        seconds = {"full": 2.0, "qkv": 1.0}[point.remat] / point.microbatches
        facts = {
            "hbm": {"peak": 1, "arguments": 1, "temporaries": 1, "chip": 2},
            "flops_per_chip": 1.0,
            "bytes_per_chip": 1.0,
            "collectives": {"all-gather": {"bytes": 5, "count": 1}},
            "seconds": {"step": seconds, "matrix": seconds},
            "bounds": {"arithmetic": seconds},
            "bound": "arithmetic",
            "mfu": 0.5,
            "tokens_per_second": point.rows / seconds,
            "loops_of_unknown_length": 0,
        }
        needs = 1.0 if fits else 40 * 2.0**30
        return Found(key=key, point=vars(point), fits=fits, needs=needs, facts=facts if fits else None)

    monkeypatch.setattr(job.topology, "devices", lambda name: [None] * 16)
    monkeypatch.setattr(job, "_libtpu", lambda: "0")
    monkeypatch.setattr(CompileJob, "compile", compiled)
    space = Space(rows=(1, 2), remats=("full", "qkv"))
    CompileJob(workdir=str(tmp_path), fit=True, space=space).run("compile --fit")
    assert len(asked) == 2 * 2 + 2  # one row is no microbatches
    best = json.loads((tmp_path / "summary.json").read_text())["best"]["point"]
    assert (best["rows"], best["microbatches"], best["remat"]) == (2, 2, "qkv")
    assert "does not fit" in " ".join(capsys.readouterr().out.split())
    CompileJob(workdir=str(tmp_path), fit=True, space=space).run("compile --fit")
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"preset": "llama-9"}, "--preset llama-9: not known; known: llama-3.2-1b"),
        ({"topology": "v9:4x4"}, "chip 'v9' is not known; known: v5e, v5p, v6e"),
        ({"program": "sample", "fit": True}, "--fit searches how to train or score"),
        ({"program": "score", "microbatches": 2, "rows": 2}, "--lora and --microbatches are for train"),
        ({"rows": 3, "microbatches": 2}, "--rows 3 does not split into --microbatches 2"),
        ({"options": ("xla",)}, "--options xla: write NAME=VALUE"),
        ({"remat": "some"}, "--remat some: use full, attention, qkv, products, none"),
    ],
)
def test_mistakes(more, said):
    with pytest.raises(UserError, match=said):
        CompileJob(**more)


def test_a_mesh_of_another_size():
    with pytest.raises(UserError, match=r"devices\.fsdp=3"):
        CompileJob(devices=Devices(fsdp=3)).point(16)


@pytest.mark.parametrize(("more", "said"), [({"rows": ()}, "space.rows is empty"), ({"tensors": (0,)}, "space: 0")])
def test_spaces_that_are_none(more, said):
    with pytest.raises(UserError, match=said):
        Space(**more)
