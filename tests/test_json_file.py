"""One JSON value a file: round trip, whole writing, errors in one line."""

import pytest

from rmjax import json_file
from rmjax.errors import UserError


def test_round_trip(tmp_path):
    value = {"text": "é \u2028 <b>", "list": [1, 2.5, None]}
    json_file.write(tmp_path / "deep" / "x.json", value)
    assert json_file.read(tmp_path / "deep" / "x.json") == value


def test_what_cannot_be_read_is_a_user_error(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match=r"x.json: cannot be read"):
        json_file.read(path)
    for text in ('{"rows": [', '{"a": NaN}', '{"a": 1, "a": 2}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"x.json: not valid JSON \(.*\); check or copy the file again"):
            json_file.read(path)


def test_nan_is_not_written_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.json"
    json_file.write(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(UserError, match="cannot be written"):
        json_file.write(path, {"a": float("nan")})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_unwritable_place_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        json_file.write(tmp_path / "file" / "x.json", {})
