"""summary.json: schema, round trip, aggregation over runs."""

import json

import pytest

from rmjax.errors import UserError
from rmjax.evaluation.pairwise import Accuracy
from rmjax.evaluation.summary import Row, accuracies, groups, write_summary
from rmjax.statistics import t_interval

RESULT = Accuracy(accuracy=0.75, ci95=(0.66, 0.82), n=100, ties=2, unparsed=3)


def row(method="GFRIEND", labels=64, seed=0, draw=0, accuracy=0.75, **extra) -> Row:
    return Row(
        method=method,
        labels=labels,
        seed=seed,
        draw=draw,
        accuracy=accuracy,
        ci95=(0.6, 0.9),
        n=100,
        seconds=2.0,
        extra=extra,
    )


def test_the_schema_that_users_read(tmp_path):
    path = tmp_path / "summary.json"
    rows = [Row.of(RESULT, method="GFRIEND", labels=64, seed=1, seconds=12.5, tokens=1000)]
    write_summary(path, rows, testbed="controlled world")
    assert json.loads(path.read_text()) == {
        "rows": [
            {
                "method": "GFRIEND",
                "labels": 64,
                "seed": 1,
                "accuracy": 0.75,
                "ci95": [0.66, 0.82],
                "n": 100,
                "seconds": 12.5,
                "draw": 0,
                "ties": 2,
                "unparsed": 3,
                "tokens": 1000,
            }
        ],
        "testbed": "controlled world",
    }


def test_extra_columns_may_not_hide_the_row_s_own():
    with pytest.raises(ValueError, match="accuracy"):
        Row.of(RESULT, method="m", labels=1, seed=0, seconds=1.0, **{"n": 5, "accuracy": 1.0} | {"draw": 0})


def test_one_run_keeps_its_interval():
    (group,) = groups([row()])
    assert (group.accuracy, group.low, group.high, group.over) == (0.75, 0.6, 0.9, "100 items")


def test_runs_of_a_method_are_averaged_with_the_interval_over_runs():
    values = [0.70, 0.75, 0.90]
    found = groups([row(draw=d, accuracy=v) for d, v in enumerate(values)] + [row(labels=0)])
    expected = t_interval(values)
    assert [(g.method, g.labels, len(g.values)) for g in found] == [("GFRIEND", 64, 3), ("GFRIEND", 0, 1)]
    assert found[0].accuracy == pytest.approx(expected.value)
    assert found[0].low == pytest.approx(expected.low)
    assert found[0].high == 1.0  # 1.04 otherwise: an accuracy's interval ends at 1
    assert expected.high > 1.0
    assert found[0].values == tuple(values)
    assert found[0].over == "3 label draws, one seed"


def test_repeated_runs_and_unlike_test_sets_are_refused():
    with pytest.raises(UserError, match="draw=0, seed=0"):
        groups([row(), row()])
    with pytest.raises(UserError, match=r"n=\[50, 100\]"):
        groups([row(), Row(**{**row(draw=1).to_json(), "n": 50, "ci95": (0.5, 0.6)})])
    assert accuracies([row(), row(seed=2, accuracy=0.5)]) == {(0, 0): 0.75, (0, 2): 0.5}
