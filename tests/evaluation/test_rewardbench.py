"""RewardBench's subsets: its weights, its tie rule, what is absent, its file format."""

import json

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.evaluation import rewardbench
from rmjax.evaluation.pairwise import ItemScore, accuracy, from_scores
from rmjax.records import Message, Preference


def items(subset, n, source=""):
    prompt = (Message("user", "q"),)
    return [
        Preference(prompt=prompt, chosen="a", rejected="b", id=f"{subset}-{i}", subset=subset, source=source)
        for i in range(n)
    ]


def scored(subset, right, n, source=""):
    values = np.array([(1.0, 0.0)] * right + [(0.0, 1.0)] * (n - right))
    return from_scores(items(subset, n, source), values)


def test_reasoning_is_half_math_and_half_code():
    """The reference's vector: math .72, code .90 in each language: .81, whatever the numbers of items."""
    scores = scored("math-prm", 18, 25)
    for i, name in enumerate(rewardbench.HEP):
        scores += scored(name, 9 * (i + 1), 10 * (i + 1))
    found = rewardbench.subsets(scores)
    assert found.groups["Reasoning"].value == pytest.approx(0.81)
    assert found.groups["hep"].value == pytest.approx(0.9) and found.groups["math-prm"].value == pytest.approx(0.72)
    assert found.absent == {}  # nothing of llmbar is there, so nothing of it is missed


def test_weights_are_the_benchmarks_and_not_the_items():
    rights = dict(zip(rewardbench.LLMBAR, (4, 1, 2, 3, 0), strict=True))
    found = rewardbench.subsets([s for name, k in rights.items() for s in scored(name, k, 4)])
    slow = (100 * 4 + 134 * 1 + 92 * 2 + 47 * 3 + 46 * 0) / (4 * 419)
    assert found.groups["llmbar"].value == pytest.approx(slow)
    assert found.subsets["llmbar-adver-neighbor"].of == 134 and found.subsets["llmbar-adver-neighbor"].n == 4


def test_a_tie_is_wrong_there_and_one_half_here():
    scores = from_scores(items("math-prm", 4), np.array([(1.0, 0.0), (2.0, 2.0), (2.0, 2.0), (0.0, 1.0)]))
    assert rewardbench.subsets(scores).subsets["math-prm"].accuracy == 0.25
    assert accuracy(scores).accuracy == 0.5


def test_a_judges_halves_count():
    scores = [ItemScore(id="a", outcome=0.5, unparsed=True, subset="math-prm"), *scored("math-prm", 1, 1)]
    assert rewardbench.subsets(scores).subsets["math-prm"].accuracy == 0.75


def test_absent_subsets_are_named_and_their_group_has_no_figure():
    found = rewardbench.subsets(scored("hep-go", 3, 4))
    assert found.groups == {}
    assert "hep-rust" in found.absent["hep"] and "hep-go" not in found.absent["hep"]
    assert "math-prm" in found.absent["Reasoning"] and "llmbar" not in found.absent


def test_llmbars_short_names_count_only_in_llmbar():
    assert rewardbench.subset_of(scored("natural", 1, 1, "princeton-nlp/LLMBar")[0]) == "llmbar-natural"
    assert rewardbench.subset_of(scored("natural", 1, 1, "my own data")[0]) is None
    assert rewardbench.subset_of(scored("llmeval2", 1, 1, "princeton-nlp/LLMBar")[0]) is None
    assert rewardbench.subsets(scored("natural", 1, 1)) is None


def test_the_shared_files_subsets_are_known(shared):
    from rmjax.data.sources import read_preferences

    found = {}
    for name in ("llmbar", "humanevalpack_bugs", "math_prm"):
        for p in read_preferences(shared / "data" / "dev" / f"{name}.jsonl.gz").records:
            subset = rewardbench.subset_of(ItemScore(id=p.id, outcome=1.0, subset=p.subset, source=p.source))
            found[subset] = found.get(subset, 0) + 1
    assert found.keys() == rewardbench.WEIGHTS.keys()
    assert all(n <= rewardbench.SIZES[name] for name, n in found.items())


def test_files_in_the_benchmarks_format(tmp_path):
    pairs = items("math-prm", 2)
    scores = from_scores(pairs, np.array([(1.5, 0.25), (2.0, 2.0)]))
    texts = [("q a", "q b"), ("q a", "q b")]
    outputs, summary = rewardbench.write_results(tmp_path, "m", pairs, scores, texts, tokenizer="m", template="chat")
    lines = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert outputs.name == "m_outputs.jsonl" and summary.name == "m.json"
    assert lines[0] == {
        "prompt": "q",
        "results": 1,
        "scores_chosen": 1.5,
        "scores_rejected": 0.25,
        "text_chosen": "q a",
        "text_rejected": "q b",
        "id": "math-prm-0",
        "subset": "math-prm",
    }
    assert lines[1]["results"] == 0  # the tie
    assert json.loads(summary.read_text()) == {
        "accuracy": 0.5,
        "num_prompts": 2,
        "model": "m",
        "ref_model": None,
        "tokenizer": "m",
        "chat_template": "chat",
        "extra_results": {"math-prm": 0.5},
    }
    with pytest.raises(UserError, match="without scores"):
        judged = [ItemScore(id=p.id, outcome=1.0) for p in pairs]
        rewardbench.write_results(tmp_path, "m", pairs, judged, texts, tokenizer="m", template="chat")
