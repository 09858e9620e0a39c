"""Ids by content, and what a record says of itself."""

import hashlib

import pytest

from rmjax.records import Demonstration, Judgment, Message, Preference, content_id

ASK = (Message("user", "Why is the sky blue?"),)


def pair(**fields) -> Preference:
    return Preference(**{"prompt": ASK, "chosen": "Scattering.", "rejected": "Paint.", **fields})


def test_an_id_is_the_hash_of_prompt_and_answers_and_of_nothing_else():
    assert pair().id == pair(margin=2.0, source="x", meta={"a": 1}).id
    assert len(pair().id) == 16
    others = [pair(chosen="Paint.", rejected="Scattering."), pair(rejected="paint."), pair(prompt=())]
    assert len({pair().id, *(p.id for p in others)}) == 4


def test_a_given_id_is_kept():
    assert pair(id="mine").id == "mine"


def test_content_is_not_hashed_by_concatenation():
    assert content_id(ASK, "ab", "c") != content_id(ASK, "a", "bc")
    assert content_id((Message("user", "a"), Message("user", "b"))) != content_id((Message("user", "ab"),))
    assert content_id((Message("user", "x"),), "y") != content_id((), "user", "x", "y")


def test_ids_stay_what_they_are():
    """Splits, caches and sampling streams hang on ids: a change of the hash must not pass unseen."""
    text = b'[[["user", "Why is the sky blue?"]], "Scattering.", "Paint."]'
    assert pair().id == hashlib.sha256(text).hexdigest()[:16] == "25f3b77ebbba6dec"
    assert Demonstration(prompt=ASK, completion="Scattering.").id == content_id(ASK, "Scattering.")


@pytest.mark.parametrize(
    ("slot", "verdict", "correct"), [("A", "A", True), ("B", "A", False), ("A", None, None), ("B", "tie", False)]
)
def test_a_judgment_is_correct_where_it_names_the_chosen_slot(slot, verdict, correct):
    judgment = Judgment(
        item="x", slot=slot, index=0, prompt=(1,), tokens=(2,), logps=(-0.1,), reasoning=1, text="", verdict=verdict,
        prob_a=None, finish="stop",
    )  # fmt: skip
    assert judgment.correct is correct
