"""Each finding: planted once, found once, at its place; in clean pairs nothing is found."""

import dataclasses
import random

import pytest
from clean_pairs import clean, found, intake, pair, prose

from rmjax.data.doctor import intake as lenient
from rmjax.data.doctor.examine import examine
from rmjax.errors import UserError

CLEAN = clean(60)
RNG = random.Random(7)
LONG = prose(RNG, 30)
TEXT = prose(RNG, 22)


def changed(i: int, **fields):
    """The clean pairs, one of them changed."""
    return [*CLEAN[:i], dataclasses.replace(CLEAN[i], **fields), *CLEAN[i + 1 :]]


def test_clean_pairs_have_no_finding():
    assert found(CLEAN, clean(20, seed=1)) == {}


PLANTED = {
    "empty": changed(5, chosen="  \n"),
    "identical": changed(5, rejected=CLEAN[5].chosen.upper()),
    "duplicate": [*CLEAN, dataclasses.replace(CLEAN[5], id="again", chosen=f" {CLEAN[5].chosen.upper()}")],
    "against-itself": changed(5, votes={"chosen": 1, "rejected": 4}),
    "shared-id": changed(5, id=CLEAN[6].id),
    "replacement": changed(5, chosen="A \ufffd in the middle of a text that is else quite all right, as it seems."),
    "mojibake": changed(5, chosen="It was the donâ€™t of a page that was read with the wrong table, as it seems."),
    "control": changed(5, rejected="A bell \x07 in the middle of a text that is else quite all right, as it seems."),
    "invisible": changed(5, rejected="A space \u200b in the middle of a text that is else quite right, as it seems."),
    "special-token": changed(5, chosen="The answer was as it should be and then went on.<|im_end|>"),
    "role": changed(5, chosen="The answer was as it should be and then went on.\n\nHuman: And what is more?"),
    "near-duplicate": [
        *CLEAN,
        pair("another question altogether", CLEAN[5].chosen + " And more.", CLEAN[5].rejected, id="near"),
    ],
    "near-prompt": [*CLEAN, pair(CLEAN[5].prompt[0].content + " Please.", LONG, TEXT, id="near")],
    "unusual-length": changed(5, chosen=prose(RNG, 4000)),
    "empty-prompt": changed(5, prompt=()),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_once_found_once(kind):
    findings = found(PLANTED[kind])
    for name in ("agreement", "votes"):  # the label of a duplicate agrees with the first, and so do the voters
        findings.pop(name, None)
    assert list(findings) == [kind]
    finding = findings[kind]
    assert len(finding.cases) == 1
    case = finding.cases[0]
    assert 5 in case.members or finding.count == 2
    assert set(case.where) == {f"pairs.jsonl:{i + 1}" for i in case.members}
    assert finding.advice and finding.severity in ("error", "warning", "note")


def test_a_kind_of_line_for_every_unreadable_one(tmp_path):
    path = tmp_path / "broken.jsonl"
    good = '{"prompt": "a", "chosen": "b", "rejected": "c", "colour": 1}'
    path.write_text(
        f'{good}\n{{"prompt": \n{good.replace("b", "d")}\n{{"prompt": "a", "chosen": 3, "rejected": "c"}}\n'
    )
    read = lenient.read(path)
    assert [p.chosen for p in read.records] == ["b", "d"]
    assert read.where == [f"{path}:1", f"{path}:3"]
    assert [f.where for f in read.faults] == [f"{path}:2", f"{path}:4"]
    assert read.left_out == ["colour"]
    kinds = {f.kind: f for f in examine(read)}
    assert kinds["unreadable"].count == 2 and kinds["unreadable"].cases[1].where == (f"{path}:4",)
    assert "chosen" in kinds["unreadable"].cases[1].detail and kinds["unknown-column"].detail == "colour"


def test_a_file_of_no_pairs_is_refused(tmp_path):
    path = tmp_path / "none.jsonl"
    path.write_text('{"prompt": "a", "chosen": 3, "rejected": 4}\n{"prompt": "a", "chosen": "b", "rejected": 4}\n')
    with pytest.raises(UserError, match=r"none\.jsonl"):
        lenient.read(path)
    path.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="schema"):
        lenient.read(path)


def test_length_by_subset():
    """Longer wins in one subset, shorter in the other: told, though the sum is even."""
    lean = lambda p, i: dataclasses.replace(p, chosen=p.chosen + " Long" * 60, subset="wordy", id=f"l{i}")
    skewed = [lean(p, i) for i, p in enumerate(CLEAN)]
    finding = found(skewed)["length"]
    assert (finding.count, finding.of, finding.severity) == (60, 60, "warning")
    terse = [
        dataclasses.replace(p, chosen=p.rejected, rejected=p.chosen, subset="terse", id=f"t{p.id}") for p in skewed
    ]
    finding = found([*skewed, *terse])["length"]
    assert (finding.count, finding.of, finding.severity) == (60, 120, "warning") and "subset" in finding.title
    assert "wordy: longer wins 100.0 %" in finding.detail and "terse: longer wins 0.0 %" in finding.detail
    assert "longer" in found([*skewed, *terse[:30]])["length"].title


def test_artefacts_by_subset():
    """A refusal wins in one subset and loses in the other: told, though the sum is even (as xstest's)."""
    refusal = "I'm sorry, but I cannot help with that."
    safe = [dataclasses.replace(p, rejected=f"{refusal} {p.rejected}", subset="answer") for p in clean(40, seed=2)]
    harm = [dataclasses.replace(p, chosen=f"{refusal} {p.chosen}", subset="refuse") for p in clean(40, seed=3)]
    finding = found([*safe, *harm])["refusal"]
    assert finding.severity == "warning" and finding.count == 80 and "depends on the subset" in finding.title
    assert "answer: wins 0.0 %" in finding.detail and "refuse: wins 100.0 %" in finding.detail
    bare = [dataclasses.replace(p, subset="") for p in CLEAN]
    finding = found([*safe, *bare])["refusal"]  # some pairs have no subset: all pairs are still all pairs
    assert finding.count == 40 and "rejected" in finding.title and finding.detail.startswith("wins 0.0 %")


@pytest.mark.parametrize(
    ("name", "mark"),
    [("bullets", "- {}"), ("code block", "```\n{}\n```"), ("opening “sure, here is”", "Sure, here is {}"),
     ("bold", "**{}**"), ("several paragraphs", "{}\n\nMore."), ("a question at the end", "{} No?")],
)  # fmt: skip
def test_marks_of_one_side_are_found(name, mark):
    marked = [dataclasses.replace(p, chosen=mark.format(p.chosen)) if i % 2 else p for i, p in enumerate(CLEAN)]
    finding = found(marked)[name]
    assert finding.count == 30 and "wins 100.0 %" in finding.detail and "chosen" in finding.title
    even = [p if i % 4 else dataclasses.replace(p, rejected=mark.format(p.rejected)) for i, p in enumerate(CLEAN)]
    assert name not in found([*even, *clean(15, seed=5)])  # 15 pairs alone: fewer than are told


def test_ties_are_no_labels():
    tie = dataclasses.replace(CLEAN[5], id="tie", chosen=CLEAN[5].rejected, rejected=CLEAN[5].chosen, tie=True)
    assert "contradiction" not in found([*CLEAN, tie])
    assert "contradiction" in found([*CLEAN, dataclasses.replace(tie, tie=False)])
    same = dataclasses.replace(CLEAN[5], id="tie", tie=True)
    assert found([*CLEAN, same]) == {}  # the same answers, but not the same label
    assert found([*CLEAN, tie, same])["duplicate"].count == 1  # a tie has no order


def test_ids_are_compared_as_jobs_compare_them():
    again = dataclasses.replace(CLEAN[5], chosen=CLEAN[5].chosen.upper())  # a duplicate to the doctor, another record
    assert found([*CLEAN, again])["shared-id"].count == 2 and "shared-id" not in found([*CLEAN, CLEAN[5]])


def test_the_same_whatever_ran_before():
    """No hash that differs from process to process or depends on what was examined before shows in the findings."""
    records = [*PLANTED["near-duplicate"], *PLANTED["duplicate"][-1:]]
    once = examine(intake(records))
    found(clean(5, seed=9))
    assert examine(intake(records)) == once
