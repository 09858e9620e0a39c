"""Price lists, what a run spent, and the sum over runs."""

import json

import pytest

from rmjax.errors import UserError
from rmjax.evaluation import ledger, provenance
from rmjax.evaluation.ledger import Prices, Spent
from rmjax.evaluation.provenance import Provenance
from rmjax.progress import TALLY

FACTS = dict(command="c", config={}, seed=0)
PRICES = Prices(currency="EUR", label=0.5, million_sampled=2.0, hour=3.0)


def test_money_by_the_price_list():
    spent = Spent(labels={"a": 100, "b": 20}, tokens_sampled=500_000, tokens_trained=7, seconds=1800.0)
    assert spent.money(PRICES).parts == {"labels": 60.0, "tokens sampled": 1.0, "hours": 1.5}
    assert spent.money(PRICES).total == 62.5 and spent.money(PRICES).words == "62.50 EUR"


def test_unknown_is_never_nothing():
    money = Spent(labels=None, tokens_sampled=0, tokens_trained=None, seconds=3600.0).money(PRICES)
    assert money.parts == {"labels": None, "tokens sampled": 0.0, "hours": 3.0}
    assert money.total is None and money.words == "3.00 EUR and labels, not known"


def test_price_lists(tmp_path):
    (tmp_path / "p.toml").write_text('currency = "EUR"\nlabel = 0.5\nhour = 3\n')
    (tmp_path / "p.json").write_text('{"currency": "EUR", "label": 0.5, "hour": 3}')
    assert (
        Prices.read(tmp_path / "p.toml")
        == Prices.read(tmp_path / "p.json")
        == Prices(currency="EUR", label=0.5, hour=3.0)
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.toml", "labels = 0.5", "'labels'; did you mean 'label'"),
        ("p.toml", "label = 'much'", "field 'label' is \"much\""),
        ("p.toml", "label = -1", "field 'label' is -1"),
        ("p.toml", "hour = inf", "field 'hour' is inf"),
        ("p.toml", "label 3", "not valid TOML"),
        ("p.json", "{", "not valid JSON"),
        ("p.json", "{}", "holds no price"),
        ("p.yaml", "", "is a .json or a .toml file"),
    ],
)
def test_wrong_price_lists_are_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        Prices.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        Prices.read(tmp_path / "none.toml")


def test_attempts_add_up_and_labels_do_not(tmp_path, monkeypatch):
    """Two attempts, the first killed after it was seen to have sampled: what was seen counts, and is a lower bound."""
    monkeypatch.setattr(provenance, "BEAT", -1.0)  # every count is written
    path = tmp_path / "run.json"
    killed = Provenance(path, data={}, labels={"x": 10}, **FACTS)
    TALLY.add(sampled=30, trained=5)
    del killed
    TALLY.add(sampled=500)  # no run is there to spend it
    second = Provenance(path, data={}, labels={"x": 10}, **FACTS)
    TALLY.add(sampled=12)
    run = second.finish()
    TALLY.add(sampled=1000)  # after the run: nobody's
    assert run == json.loads(path.read_text())
    assert [a["seconds"] is None for a in run["attempts"]] == [True, False]
    assert run["attempts"][0]["at_least"]["tokens_sampled"] == 30
    spent = run["spent"]
    assert (spent["labels"], spent["tokens_sampled"], spent["tokens_trained"]) == ({"x": 10}, 42, 5)
    assert spent["at_least"] and spent["money"] is None
    assert spent["seconds"] >= run["seconds"]


def test_labels_bought_on_the_way(tmp_path):
    path = tmp_path / "run.json"
    first = Provenance(path, data={}, **FACTS)
    assert json.loads(path.read_text())["spent"]["labels"] is None
    first.bought({"expert": 7})
    again = Provenance(path, data={}, **FACTS)  # goes on after a kill: what was bought stays bought
    assert json.loads(path.read_text())["spent"]["labels"] == {"expert": 7}
    again.bought({"expert": 9, "proxy": 100})
    assert again.finish()["spent"]["labels"] == {"expert": 9, "proxy": 100}


def test_money_in_every_run(tmp_path, monkeypatch):
    (tmp_path / "p.toml").write_text('currency = "EUR"\nlabel = 0.5\n')
    monkeypatch.setenv(ledger.VARIABLE, str(tmp_path / "p.toml"))
    run = Provenance(tmp_path / "run.json", data={}, labels={"x": 10}, **FACTS).finish()
    assert run["spent"]["money"] == {"currency": "EUR", "total": 5.0, "parts": {"labels": 5.0}}
    monkeypatch.setenv(ledger.VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match=r"none\.toml"):
        Provenance(tmp_path / "run.json", data={}, **FACTS)


def test_the_sum_counts_a_file_once(tmp_path):
    for name, labels, data in (
        ("a", {"p.jsonl": 100, "held": 20}, {"p.jsonl": "1", "held": "2"}),
        ("b", {"elsewhere/p.jsonl": 60}, {"elsewhere/p.jsonl": "1"}),
        ("c", {"expert": 5}, {}),
    ):
        Provenance(tmp_path / name / "run.json", data=data, labels=labels, **FACTS).finish()
    entries = [ledger.read(tmp_path / name) for name in "abc"]
    both = ledger.total(entries)
    assert both.labelled == 100 + 20 + 5 and both.seconds == pytest.approx(sum(e.spent.seconds for e in entries))
    Provenance(tmp_path / "d" / "run.json", data={}, **FACTS).finish()
    assert ledger.total([*entries, ledger.read(tmp_path / "d")]).labels is None


def test_runs_without_a_ledger(tmp_path):
    run = {"attempts": [{"seconds": None}, {"seconds": 2.0}], "seconds": 2.0, "data": {}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert ledger.read(tmp_path).spent == Spent(
        labels=None, tokens_sampled=None, tokens_trained=None, seconds=2.0, at_least=True
    )
    assert ledger.read(tmp_path / "run.json").spent == ledger.read(tmp_path).spent  # as of label's votes/NAME.run.json
    for broken in ("[]", '{"attempts": [1]}', '{"attempts": [], "spent": []}'):
        (tmp_path / "run.json").write_text(broken)
        with pytest.raises(UserError, match=r"not the run\.json of a run"):
            ledger.read(tmp_path)
    with pytest.raises(UserError, match=r"run\.json: cannot be read"):
        ledger.read(tmp_path / "none")
