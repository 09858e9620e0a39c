"""JSON lines: exact round trips, whole files, appending through kills and full disks, errors with file and line."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmjax import jsonl
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.records import Demonstration, Judgment, Message, Preference, Rollout

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
number = st.none() | float32
messages = st.lists(st.builds(Message, role=text, content=text), max_size=3).map(tuple)
preferences = st.builds(
    Preference,
    prompt=messages,
    chosen=text,
    rejected=text,
    margin=number,
    weight=number,
    prob_chosen=number,
    tie=st.booleans(),
    votes=st.none() | st.dictionaries(text, st.integers()),
    id=text,
    meta=st.dictionaries(text, st.none() | st.booleans() | text | st.lists(text, max_size=2), max_size=3),
)
rollouts = st.builds(
    Rollout,
    id=text,
    index=st.integers(0, 99),
    tokens=st.lists(st.integers(0, 1000), max_size=5).map(tuple),
    logps=st.lists(float32, max_size=5).map(tuple),
    text=text,
    finish=st.sampled_from(["stop", "length"]),
    watched=st.lists(st.lists(float32, max_size=2).map(tuple), max_size=3).map(tuple),
)
judgments = st.builds(
    Judgment,
    item=text,
    slot=st.sampled_from("AB"),
    index=st.integers(0, 9),
    prompt=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    tokens=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    logps=st.lists(float32, max_size=3).map(tuple),
    reasoning=st.integers(0, 3),
    text=text,
    verdict=st.sampled_from(["A", "B", "tie", None]),
    prob_a=number,
    finish=st.sampled_from(["stop", "length"]),
    hint=st.sampled_from(["A", "B", None]),
)


@pytest.mark.parametrize("records", [preferences, rollouts, judgments], ids=["preference", "rollout", "judgment"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_records_read_back_as_they_were_written(records, name, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / name

    @settings(max_examples=40, deadline=None)
    @given(st.lists(records, max_size=4))
    def round_trip(batch):
        jsonl.write(path, batch)
        assert jsonl.read(path, type(batch[0]) if batch else Preference) == batch

    round_trip()


def test_plain_mappings_and_arrays_are_written_and_checked_on_reading(tmp_path):
    path = tmp_path / "x.jsonl"
    record = Preference(prompt=(), chosen="a", rejected="b", meta=types.MappingProxyType({"v": np.arange(3)}))
    jsonl.write(path, [record, {"prompt": [], "chosen": "a", "rejected": "b", "meta": [1]}])
    with pytest.raises(UserError, match=r"x\.jsonl:2: field 'meta' is \[1\]; an object"):
        jsonl.read(path, Preference)
    assert next(jsonl.lines(path))[1]["meta"] == {"v": [0, 1, 2]}
    group = {"id": "g", "prompt": [1], "completions": [[1]], "pairs": [[0, 1, 2]]}
    jsonl.write(path, [group])
    with pytest.raises(UserError, match=r"'pairs\[0\]' is \[0, 1, 2\]; a list of 2"):
        jsonl.read(path, Group)


def test_a_group_reads_back_with_its_pairs(tmp_path):
    group = Group(id="g", prompt=(1, 2), completions=((3,), (4, 5)), pairs=((0, 1),), weight=(0.5,))
    jsonl.write(tmp_path / "g.jsonl", [group])
    assert jsonl.read(tmp_path / "g.jsonl", Group) == [group]


def test_float32_values_survive_to_the_last_bit(tmp_path):
    values = (
        np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 10.0 ** np.arange(-30, 30).repeat(17)[:1000]
    )
    values = values.astype(np.float32)
    record = Rollout(id="a", index=0, tokens=(), logps=tuple(values), text="", finish="stop")
    jsonl.write(tmp_path / "x.jsonl", [record])
    back = np.asarray(jsonl.read(tmp_path / "x.jsonl", Rollout)[0].logps, np.float32)
    np.testing.assert_array_equal(back.view(np.int32), values.view(np.int32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), object(), "\ud800"])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(value, tmp_path):
    path = tmp_path / "x.jsonl"
    good = Demonstration(prompt=(), completion="a")
    jsonl.write(path, [good])
    with pytest.raises(UserError, match=r"x\.jsonl: record 'bad' cannot be written"):
        jsonl.write(path, [good, Demonstration(prompt=(), completion="b", id="bad", meta={"v": value})])
    assert jsonl.read(path, Demonstration) == [good]
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_the_same_records_give_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    record = Demonstration(prompt=(Message("user", "a"),), completion="b")
    for name, now in (("a.jsonl.gz", 1e9), ("b.jsonl.gz", 1.7e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        jsonl.write(tmp_path / name, [record] * 9)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_only_a_newline_ends_a_record(tmp_path):
    record = Demonstration(prompt=(), completion="a\u2028b\x85c\rd\x0ce\nf")
    jsonl.write(tmp_path / "x.jsonl", [record, record])
    assert jsonl.read(tmp_path / "x.jsonl", Demonstration) == [record, record]
    (tmp_path / "y.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": [], "completion": "a"}\r\n\r\n  \n')
    assert len(jsonl.read(tmp_path / "y.jsonl", Demonstration)) == 1


GOOD = '{"prompt": [{"role": "user", "content": "q"}], "completion": "a"}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (GOOD[:-1], "not valid JSON"),
        (GOOD.replace('"a"', "NaN"), "NaN is not a number"),
        (GOOD.replace('"a"', "1e999"), "1e999 is not a number"),
        (GOOD.replace("completion", "prompt"), "'prompt' occurs twice"),
        (GOOD.replace('"a"', r'"\ud800"'), "not UTF-8 text"),
        (GOOD.replace('"a"', "3"), "field 'completion' is 3; str is expected"),
        (GOOD.replace("completion", "completoin"), "unknown field 'completoin'; did you mean 'completion'"),
        (GOOD.replace('"content"', '"text"'), r"field 'prompt\[0\]': unknown field 'text'"),
        ('{"prompt": []}', "field 'completion' of Demonstration is missing"),
        ("[1]", r"the record is \[1\]; a Demonstration object"),
        ("[" * 100_000, "not valid JSON"),
        (GOOD.replace('"a"', "9" * 5000), "not valid JSON"),
    ],
)
def test_a_bad_line_is_named(line, says, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(UserError, match=says) as error:
        jsonl.read(path, Demonstration)
    assert str(error.value).startswith(f"{path}:3: ")
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_text_and_broken_gzip_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"x\.jsonl:1: not UTF-8 text .* at byte 7"):
        jsonl.read(tmp_path / "x.jsonl", Demonstration)
    whole = gzip.compress(GOOD.encode() * 100)
    for content in (b"no gzip", whole[: len(whole) // 2], whole[:-3] + b"abc"):
        (tmp_path / "x.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.jsonl\.gz: cannot be read"):
            jsonl.read(tmp_path / "x.jsonl.gz", Demonstration)


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(UserError, match=r"pair\.jsonl: no such file; did you mean 'pairs.jsonl'"):
        jsonl.read(tmp_path / "pair.jsonl", Demonstration)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("finish", "end", "use one of 'stop', 'length'"), ("tokens", [1, True], r"'tokens\[1\]' is true; int"),
     ("logps", [0, "x"], r"'logps\[1\]' is \"x\"; float"), ("watched", [[1], 2], r"'watched\[1\]' is 2; a list")],
)  # fmt: skip
def test_types_inside_records_are_checked(field, value, says, tmp_path):
    row = {"id": "a", "index": 0, "tokens": [1], "logps": [0], "text": "", "finish": "stop", field: value}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=says):
        jsonl.read(tmp_path / "x.jsonl", Rollout)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.text(max_size=60).map(str.encode))
def test_arbitrary_bytes_give_records_or_a_user_error(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    try:
        jsonl.read(path, Demonstration)
    except UserError as error:
        assert "\n" not in str(error)


def rollout(index: int) -> Rollout:
    return Rollout(id="r", index=index, tokens=(1,), logps=(-0.5,), text="é" * 9, finish="stop")


def test_appending_continues_after_any_torn_tail(tmp_path):
    path = tmp_path / "deep" / "x.jsonl"
    with jsonl.Appender(path, Rollout) as out:
        assert out.existing == []
        for i in range(3):
            out.append(rollout(i))
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    third = whole.index(b"\n", second) + 1
    for cut in range(second, len(whole)):
        path.write_bytes(whole[:cut])
        with jsonl.Appender(path, Rollout) as out:
            assert len(out.existing) == (1 if cut < third else 2)
            for i in range(len(out.existing), 3):
                out.append(rollout(i))
        assert path.read_bytes() == whole


def test_a_torn_first_line_longer_than_the_search_block_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"x" * 200_000)
    with jsonl.Appender(path, Rollout) as out:
        assert out.existing == []
    assert path.read_bytes() == b""
    jsonl.write(path, [rollout(0)])
    with path.open("ab") as file:
        file.write(b"y" * 200_000)
    with jsonl.Appender(path, Rollout) as out:
        assert out.existing == [rollout(0)]


def test_a_broken_line_in_the_middle_is_an_error_not_a_loss(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{broken\n" + jsonl.encode(rollout(1), path))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"x\.jsonl:1: not valid JSON"):
        jsonl.Appender(path, Rollout)
    assert path.read_bytes() == before


def test_a_killed_writer_loses_no_record_that_it_reported(tmp_path):
    path = tmp_path / "x.jsonl"
    code = f"""
        from rmjax import jsonl
        from rmjax.records import Rollout
        out = jsonl.Appender({str(path)!r}, Rollout)
        for i in range(10**6):
            out.append(Rollout(id="r", index=i, tokens=(1,), logps=(-0.5,), text="x" * 50, finish="stop"))
            print(i, flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=dict(os.environ)
    )
    reported = -1
    for line in child.stdout:
        reported = int(line)
        if reported >= 200:
            child.send_signal(signal.SIGKILL)
            break
    rest = child.stdout.read().split()
    child.wait()
    reported = int(rest[-1]) if rest and rest[-1].isdigit() else reported
    with jsonl.Appender(path, Rollout) as out:
        assert [r.index for r in out.existing] == list(range(len(out.existing)))
        assert len(out.existing) >= reported  # the very last number may itself be torn


class FullDisk:
    """A file whose disk has room for some bytes more."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self._file.write(bytes(data)[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("room", [0, 1, 40, 97])
def test_a_full_disk_names_the_file_and_loses_nothing(room, tmp_path):
    path = tmp_path / "x.jsonl"
    out = jsonl.Appender(path, Rollout)
    out.append(rollout(0))
    disk = out._file = FullDisk(out._file, room)
    with pytest.raises(UserError, match=r"x\.jsonl: cannot be written \(No space left on device\)"):
        for i in range(1, 9):
            out.append(rollout(i))
    assert jsonl.read(path, Rollout) == [rollout(0)]
    disk.room = 10**6
    out.append(rollout(1))
    out.close()
    assert jsonl.read(path, Rollout) == [rollout(0), rollout(1)]


def test_an_unwritable_place_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    for act in (lambda p: jsonl.write(p, []), lambda p: jsonl.Appender(p, Rollout)):
        with pytest.raises(UserError, match="cannot be written"):
            act(tmp_path / "file" / "x.jsonl")
    with pytest.raises(UserError, match="compressed"):
        jsonl.Appender(tmp_path / "x.jsonl.gz", Rollout)


def test_appending_the_wrong_kind_is_a_programming_error(tmp_path):
    with jsonl.Appender(tmp_path / "x.jsonl", Rollout) as out, pytest.raises(TypeError):
        out.append(Demonstration(prompt=(), completion="a"))


def test_a_failed_whole_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.jsonl"
    jsonl.write(path, [rollout(0)])

    def broken():
        yield rollout(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match="No space left"):
        jsonl.write(path, broken())
    assert jsonl.read(path, Rollout) == [rollout(0)]
    assert os.listdir(tmp_path) == ["x.jsonl"]
