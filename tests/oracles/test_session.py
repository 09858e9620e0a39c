"""One annotator's session: blind, in order, undone, resumed, and on disk before anything else."""

import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.oracles.journal import Entry, standing_votes
from rmjax.oracles.session import Session, Stale


def test_the_order_is_blind_and_each_annotator_s_own(session, pairs):
    def shown(by, seed=0, **where):
        opened, views = session(by, seed, **where), []
        while (view := opened.current) is not None:
            views.append(view.answers)
            opened.vote(view.number, "unknown")
        return views

    ann = shown("ann")
    assert [set(a) for a in ann] == [{p.first, p.second} for p in pairs]
    assert 0 < sum(a[0] == p.first for a, p in zip(ann, pairs, strict=True)) < len(pairs)
    assert shown("bob") != ann
    assert shown("eve", seed=1) != shown("joe", seed=1) and shown("kim", seed=1) != ann


def test_a_vote_names_the_answer_that_was_shown(session, pairs):
    ann = session()
    for said in ("1", "2", "tie", "unknown", "1", "2"):
        view = ann.current
        ann.vote(view.number, said, seconds=2.5)
        vote, pair = ann.votes[-1], pairs[view.number]
        if said in ("1", "2"):
            assert {"first": pair.first, "second": pair.second}[vote.choice] == view.answers[int(said) - 1]
        else:
            assert vote.choice == said
        assert (vote.item, vote.by, vote.seconds) == (pair.id, "ann", 2.5)
        assert vote.swapped == (view.answers[0] == pair.second)


def test_undo_goes_back_as_far_as_one_likes(session):
    ann = session()
    for number in range(3):
        ann.vote(number, "1")
    ann.undo(2)
    ann.undo(2)  # heard twice, done once
    assert (ann.done, ann.current.number, ann.last) == (2, 2, 1)
    with pytest.raises(Stale):
        ann.undo(0)
    ann.undo(1)
    ann.vote(1, "tie")
    assert (ann.current.number, [v.item for v in ann.votes]) == (2, ["pair-0", "pair-1"])


def test_it_resumes_with_its_undos(session, tmp_path):
    ann = session()
    for number in range(4):
        ann.vote(number, "2")
    ann.undo(3)
    votes = ann.votes
    ann.close()
    with (tmp_path / "ann.jsonl").open("ab") as file:
        file.write(b'{"item": "pair-3"')  # killed in the middle of a line
    assert standing_votes(tmp_path / "ann.jsonl") == votes  # another run may look at any time
    again = session()
    assert (again.votes, again.current.number, again.last) == (votes, 3, 2)
    again.undo(2)
    assert again.current.number == 2


def test_a_repeated_request_is_taken_once_and_a_late_one_refused(session, tmp_path):
    ann = session()
    ann.vote(0, "1")
    ann.vote(0, "1")
    assert len(jsonl.read(tmp_path / "ann.jsonl", Entry)) == ann.done == 1
    with pytest.raises(Stale):
        ann.vote(0, "2")
    with pytest.raises(Stale):
        ann.vote(5, "1")
    for number, said, seconds in ((10, "1", 0), (-1, "1", 0), (1, "first", 0), (1, "1", float("nan")), (1, "1", -1)):
        with pytest.raises(ValueError):
            ann.vote(number, said, seconds=seconds)
    assert ann.done == 1


def test_what_it_refuses(session, pairs, tmp_path):
    ann = session()
    ann.vote(0, "1")
    with pytest.raises(UserError, match="another run is writing votes here"):
        session()
    ann.close()
    path = tmp_path / "ann.jsonl"
    with pytest.raises(UserError, match="holds votes by 'ann', not by 'bob'"):
        session("bob", path=path)
    with pytest.raises(UserError, match="a vote on 'pair-0', which is not among the pairs"):
        Session(pairs[1:], path, by="ann")
    with pytest.raises(UserError, match="given on other texts"):
        Session(
            [*pairs[1:], type(pairs[0])(prompt=pairs[0].prompt, first="x", second="y", id="pair-0")], path, by="ann"
        )
    with pytest.raises(UserError, match="'pair-0' repeats"):
        Session([*pairs, pairs[0]], path, by="ann")
    for name in ("", "../ann", "a b", ".hidden", "x" * 65):
        with pytest.raises(UserError, match="--by"):
            Session(pairs, path, by=name)
