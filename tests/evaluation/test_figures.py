"""Figures: themed, deterministic, and honest about what is not drawn."""

import re
import xml.etree.ElementTree

import numpy as np
import pytest

from rmjax.evaluation import curves, figures, matrix, rounds
from rmjax.evaluation.calibration import calibration
from rmjax.statistics import Interval


def parsed(svg: str) -> xml.etree.ElementTree.Element:
    return xml.etree.ElementTree.fromstring(str(svg).replace("<svg", '<svg xmlns:xlink="x"', 1))


def test_only_the_page_s_colours():
    drawn = [
        figures.curve([(i, float(i % 7)) for i in range(100)], "loss")[0],
        figures.histogram([0.2, 0.4, 0.6], [0.1, 0.5], threshold=0.3, label="score"),
        figures.reliability(calibration([0.7, 0.2, 0.9, 0.6]), "judge"),
    ]
    for svg in drawn:
        root = parsed(svg)
        assert root.get("role") == "img" and root.get("viewBox") and root.get("width") is None
        assert not re.search(r"(fill|stroke|color): *#", svg)
        assert "var(--right)" in svg
        assert "http" not in svg


def test_a_narrow_figure_is_not_blown_up_to_the_page():
    narrow, wide = (figures.draw((width, 1.0), lambda fig: None, "l") for width in (2.0, 8.0))
    assert "max-width: 2.70in" in narrow and "max-width: 10.80in" in wide


def test_the_same_data_draw_the_same_bytes():
    points = [(i, np.sin(i)) for i in range(50)]
    assert figures.curve(points, "loss") == figures.curve(points, "loss")


def test_what_is_not_finite_is_counted():
    svg, left_out = figures.curve([(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.5)], "loss")
    assert left_out == 2 and "nan" not in svg.lower()
    assert figures.curve([(0, float("nan"))], "loss")[1] == 1


def test_labels_are_text_whatever_they_hold():
    hostile = '</svg><script>alert(1)</script> $\\foo$ & "'
    svg = figures.histogram([0.1], [], threshold=None, label=hostile)
    parsed(svg)
    assert "<script" not in svg
    svg, _ = figures.curve([(0, 1.0), (1, 2.0)], hostile)
    parsed(svg)
    assert "<script" not in svg


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_moving_mean(width):
    y = np.random.default_rng(0).random(20)
    slow = [y[max(0, i - width // 2) : i + (width + 1) // 2].mean() for i in range(20)]
    np.testing.assert_allclose(figures.moving_mean(y, width), slow)


def test_curves_by_stage():
    curves = {"SFT/loss": [1], "SFT/rewards/chosen": [2], "accuracy": [3]}
    assert figures.curves_by_stage(curves) == {"SFT": [("loss", [1]), ("rewards/chosen", [2])], "": [("accuracy", [3])]}


def test_a_matrix_has_its_numbers_and_names():
    cells = {(s, t): Interval(v, v - 0.01, v + 0.01, 5) for s, t, v in (("a", "a", 0.7), ("a", "b", 0.4))}
    svg = matrix.figure(cells, ["a"], ["a", "b"], label="l")
    assert ">70.0</text>" in svg and ">40.0</text>" in svg and svg.count(">± 1.0</text>") == 2
    assert "var(--right)" in svg and "var(--wrong)" in svg
    zero = matrix.figure({("a", "a"): Interval(0.02, 0.01, 0.03, 5)}, ["a"], ["a"], label="l", zero=0.0)
    assert ">+2.0</text>" in zero


def test_a_grid_of_curves():
    html = rounds.grid({"<b>": [curves.Dot(0, 0.5, 0.4, 0.6), curves.Dot(1, 0.25, 0.25, 0.25)]}, across="round")
    assert "round 1" in html and "50.0±10.0" in html and "25.0±0.0" in html and "&lt;b&gt;" in html
