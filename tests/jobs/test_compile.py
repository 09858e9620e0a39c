"""The compile job: a tiny model through the TPU's own compiler, points that are kept, and mistakes in one line."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from rmjax import launch
from rmjax.aot.estimate import DoesNotFit, estimate
from rmjax.aot.programs import Program, RowLayout
from rmjax.errors import UserError
from rmjax.jobs import compile as job
from rmjax.jobs.compile import CompileJob, Found, Point, Space
from rmjax.jobs.devices import Devices
from rmjax.models.config import Lora
from rmjax.sharding import MESH_AXES, make_mesh

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


@pytest.mark.parametrize(("program", "limit"), [("train", "65536"), ("sample", "32768")])
def test_it_compiles_as_jobs_do(program, limit, monkeypatch):
    """With the options of the program's own jobs, and what the user adds to them."""
    given = []

    def estimate(program, topology, options):
        given.append(options)
        raise DoesNotFit(1.0)

    monkeypatch.setattr(CompileJob, "lower", lambda *_: None)
    monkeypatch.setattr(job, "estimate", estimate)
    point = Point(data=1, fsdp=1, tensor=1, rows=1, microbatches=1, remat="full")
    CompileJob(program=program, options=("a=b=c",)).compile(None, point, "")
    assert given[0]["xla_tpu_scoped_vmem_limit_kib"] == limit and given[0]["a"] == "b=c"


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
        ({"program": "score", "microbatches": 2, "rows": 2}, "--microbatches: --program score does not read it"),
        ({"program": "score", "lora": Lora(rank=8)}, "--lora: --program score does not read it"),
        ({"program": "sample", "rows": 2}, "--rows: --program sample does not read it"),
        ({"program": "sample", "row": RowLayout(completions=2)}, "--row: --program sample reads its prompt alone"),
        ({"room": 64}, "--room: --program train does not read it"),
        ({"program": "decode"}, "--program decode: use train, score, sample"),
        ({"weights": "int8"}, "--weights int8: all parameters are trained"),
        ({"model": "config.json", "preset": "llama-3-70b"}, "--preset: --model takes its place"),
        ({"fit": True, "rows": 2}, "--rows: --fit searches it, in --space"),
        ({"fit": True, "devices": Devices(tensor=2)}, "--devices: --fit searches it, in --space"),
        ({"space": Space(rows=(1,))}, "--space: only --fit reads it"),
        ({"rows": 3, "microbatches": 2}, "--rows 3 does not split into --microbatches 2"),
        ({"options": ("xla",)}, "--options xla: write NAME=VALUE"),
        ({"remat": "some"}, "--remat some: use full, attention, qkv, products, none"),
    ],
)
def test_mistakes(more, said):
    with pytest.raises(UserError, match=said):
        CompileJob(**more)


def test_an_encoder_is_no_model_for_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"config\.json: compile takes the config\.json of a decoder"):
        CompileJob(model=str(tmp_path)).config()


def test_a_search_goes_past_meshes_that_are_none_of_the_models(tmp_path, monkeypatch, capsys):
    """16 parts do not divide 8 key/value heads; that is found before anything is compiled."""
    monkeypatch.setattr(job.topology, "devices", lambda name: [None] * 16)
    monkeypatch.setattr(job.topology, "mesh", lambda name, shape: AbstractMesh(shape, MESH_AXES))
    monkeypatch.setattr(job, "_libtpu", lambda: "0")
    space = Space(rows=(1,), remats=("full",), tensors=(16,))
    CompileJob(workdir=str(tmp_path), fit=True, space=space).run("compile --fit")
    (point,) = json.loads((tmp_path / "summary.json").read_text())["points"]
    assert "tensor=16 does not divide kv_heads=8" in point["why"] and not point["fits"]
    assert "tensor=16 does not divide" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="tensor=16 does not divide"):
        once = CompileJob(devices=Devices(fsdp=1, tensor=16))
        once.compile(once.config(), once.point(16), "")


def test_what_the_compiler_says_where_it_is_no_number(monkeypatch):
    """Main memory is not the only one that a program may be too large for."""
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem"

    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(f"{said}\nand much more")

    monkeypatch.setattr(CompileJob, "lower", lambda *_: Program(Lowered(), None, 1.0, 1))
    found = CompileJob().compile(None, Point(data=1, fsdp=1, tensor=1, rows=1, microbatches=1, remat="full"), "")
    assert (found.fits, found.needs, found.why) == (False, None, said)


def test_options_that_the_compiler_does_not_know():
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    program = Program(jax.jit(lambda x: x + 1).lower(jnp.ones(3)), mesh, 1.0, 1)
    with pytest.raises(UserError, match=r"--options: .*No such compile option: 'xla_no_such'"):
        estimate(program, "v5e:2x2", {"xla_no_such": "1"})


def test_a_mesh_of_another_size():
    with pytest.raises(UserError, match=r"devices\.fsdp=3"):
        CompileJob(devices=Devices(fsdp=3)).point(16)


@pytest.mark.parametrize(("more", "said"), [({"rows": ()}, "space.rows is empty"), ({"tensors": (0,)}, "space: 0")])
def test_spaces_that_are_none(more, said):
    with pytest.raises(UserError, match=said):
        Space(**more)
