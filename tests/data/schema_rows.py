"""Rows of every schema, bare and with all that they may have, and the records that they give."""

from rmjax.records import Message, Preference

USER = Message("user", "Why?")
ASK = (USER,)
SYSTEM = Message("system", "Be brief.")
CHOSEN, REJECTED = "Because of a.", "Because of b."  # they begin alike: no prefix may be taken off them


def turns(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def reply(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def sharegpt(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def explicit(**more) -> dict:
    return {"prompt": "Why?", "chosen": CHOSEN, "rejected": REJECTED, **more}


def implicit(**more) -> dict:
    return {"chosen": turns("Why?", CHOSEN), "rejected": turns("Why?", REJECTED), **more}


def pair(prompt=ASK, chosen=CHOSEN, rejected=REJECTED, **more) -> Preference:
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, **more)


HH = {"chosen": f"\n\nHuman: Why?\n\nAssistant: {CHOSEN}", "rejected": f"\n\nHuman: Why?\n\nAssistant: {REJECTED}"}
STEER = {"prompt": "Why?", "response_1": REJECTED, "response_2": CHOSEN, "preference_strength": 2}
STEER3 = {"context": turns("Why?"), "response1": CHOSEN, "response2": REJECTED, "overall_preference": -1}
WEBGPT = {"question": "Why?", "answer_0": REJECTED, "answer_1": CHOSEN, "score_0": -0.5, "score_1": 0.25}
NEMO = {"context": "Why?", "completions": [{"rank": 1, "completion": REJECTED}, {"rank": 0, "completion": CHOSEN}]}
STRENGTH = {
    "chosen": ["Why?", "Say more.", "Why is it so?", CHOSEN],
    "rejected": ["Why?", "Say more.", "Why is it so?", REJECTED],
    "mean preference difference": -0.7,
}
LONGER = (Message("user", "Why?"), Message("assistant", "Say more."), Message("user", "Why is it so?"))
OURS = {
    "margin": 1.5,
    "weight": 2.0,
    "prob_chosen": 0.75,
    "tie": True,
    "votes": {"chosen": 3, "rejected": 1},
    "id": "i7",
    "subset": "s",
    "source": "o",
    "meta": {"k": [1]},
}

# name, row with every optional column absent, what it gives
BARE = [
    ("explicit", explicit(), [pair()]),
    ("implicit", implicit(), [pair()]),
    ("ultrafeedback", implicit(score_chosen=9.0, score_rejected=7.5), [pair(margin=1.5)]),
    ("rlhflow-scores", implicit(chosen_score=3, rejected_score=4), [pair(margin=-1.0)]),
    ("argilla", implicit(**{"chosen-rating": 5, "rejected-rating": 3}), [pair(margin=2.0)]),
    ("argilla-underscore", implicit(chosen_rating=5, rejected_rating=3), [pair(margin=2.0)]),
    ("openrlhf", {"input": "Why?", "chosen": CHOSEN, "rejected": REJECTED}, [pair()]),
    ("axolotl", {"system": "", "input": "Why?", "chosen": CHOSEN, "rejected": REJECTED}, [pair()]),
    ("alpaca-ranking", {"instruction": "Why?", "chosen": CHOSEN, "rejected": REJECTED}, [pair()]),
    (
        "sharegpt-ranking",
        {"conversations": sharegpt("Why?"), "chosen": sharegpt("", CHOSEN)[1], "rejected": sharegpt("", REJECTED)[1]},
        [pair()],
    ),
    ("nemo", NEMO, [pair(meta={"ranks": [0.0, 1.0]})]),
    (
        "rewardbench",
        explicit(chosen_model="m", rejected_model="n"),
        [pair(meta={"chosen_model": "m", "rejected_model": "n"})],
    ),
    (
        "rewardbench-2",
        explicit(chosen=[CHOSEN], rejected=[REJECTED]),
        [pair(meta={"item": "", "chosen": 0, "rejected": 0})],
    ),
    ("helpsteer2-preference", STEER, [pair(margin=2.0)]),
    ("helpsteer3", STEER3, [pair(margin=1.0)]),
    ("hh-rlhf", HH, [pair()]),
    ("hh-strength", STRENGTH, [pair(LONGER, margin=-0.7)]),
    ("webgpt", WEBGPT, [pair(margin=0.75)]),
]

# name, row with optional columns and other forms, what it gives
FULL = [
    ("explicit", explicit(**OURS), [pair(**OURS)]),
    ("explicit", explicit(level=2, annotator="x"), [pair(meta={"level": 2, "annotator": "x"})]),
    ("explicit", explicit(**dict.fromkeys(OURS)), [pair()]),  # null is absent
    ("explicit", explicit(prompt=turns("Why?"), chosen=reply(CHOSEN), rejected=reply(REJECTED)), [pair()]),
    ("explicit", explicit(prompt=turns("Why?"), chosen=turns("Why?", CHOSEN)), [pair()]),
    ("explicit", explicit(prompt=[{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]), [pair()]),
    ("explicit", explicit(prompt=[{"role": "user", "content": "Why?", "name": None, "tool_calls": []}]), [pair()]),
    ("explicit", explicit(id=12), [pair(id="12")]),
    (
        "implicit",
        {
            "chosen": turns("Why?", "Say more.", "Why is it so?", CHOSEN),
            "rejected": turns("Why?", "Say more.", "Why is it so?", REJECTED),
            "source": "x",
        },
        [pair(LONGER, source="x")],
    ),
    ("ultrafeedback", implicit(score_chosen=None, score_rejected=None), [pair()]),
    (
        "ultrafeedback",
        implicit(prompt="Why?", prompt_id="p", messages=turns("Why?", CHOSEN), score_chosen=2, score_rejected=2),
        [pair(margin=0.0, tie=True, meta={"prompt_id": "p"})],
    ),
    ("ultrafeedback", explicit(score_chosen=2, score_rejected=1), [pair(margin=1.0)]),
    (
        "argilla",
        implicit(
            **{"chosen-rating": 5, "rejected-rating": 4, "chosen-model": "m", "rejected-model": "n"},
            prompt="Why?",
            source="x",
        ),
        [pair(margin=1.0, source="x", meta={"chosen-model": "m", "rejected-model": "n"})],
    ),
    (
        "argilla-underscore",
        implicit(chosen_rating=2, rejected_rating=1, dataset="d"),
        [pair(margin=1.0, meta={"dataset": "d"})],
    ),
    (
        "axolotl",
        {"system": "Be brief.", "input": "Why?", "chosen": CHOSEN, "rejected": REJECTED},
        [pair((SYSTEM, USER))],
    ),
    (
        "alpaca-ranking",
        {
            "instruction": "Why?",
            "input": "Think.",
            "system": "Be brief.",
            "history": [["Hi", "Ho"]],
            "chosen": CHOSEN,
            "rejected": REJECTED,
        },
        [pair((SYSTEM, Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Why?\nThink.")))],
    ),
    (
        "sharegpt-ranking",
        {
            "conversations": sharegpt("Why?", "Say more.", "Why is it so?"),
            "chosen": {"from": "gpt", "value": CHOSEN},
            "rejected": {"from": "gpt", "value": REJECTED},
            "system": "Be brief.",
            "tools": "",
        },
        [pair((SYSTEM, *LONGER))],
    ),
    (
        "nemo",
        {
            "context": turns("Why?"),
            "completions": [
                {"rank": r, "completion": reply(c)} for r, c in ((0, "x"), (1, "y"), (1, "z"))
            ],
            "task_name": "t",
            "id": 5,
        },
        [
            pair(chosen="x", rejected="y", id="5/0-1", meta={"task_name": "t", "ranks": [0.0, 1.0]}),
            pair(chosen="x", rejected="z", id="5/0-2", meta={"task_name": "t", "ranks": [0.0, 1.0]}),
        ],
    ),
    (
        "rewardbench",
        explicit(chosen_model="m", rejected_model="n", subset="llmbar", id=3),
        [pair(id="3", subset="llmbar", meta={"chosen_model": "m", "rejected_model": "n"})],
    ),
    (
        "rewardbench-2",
        explicit(
            chosen=["a", "b"], rejected=["c"], id="7", subset="Ties", num_correct=2, num_incorrect=1, models=["m"],
            total_completions=3, additional_metadata=None,
        ),
        [
            pair(
                chosen=c, rejected="c", id=f"7/{i}-0", subset="Ties",
                meta={"item": "7", "chosen": i, "rejected": 0, "num_correct": 2, "num_incorrect": 1, "models": ["m"],
                      "total_completions": 3},
            )
            for i, c in enumerate("ab")
        ],
    ),
    (
        "helpsteer2-preference",
        {
            **STEER,
            "prompt": "Why?\n<extra_id_1>Assistant\nSay more.\n<extra_id_1>User\nWhy is it so?",
            "preference_strength": -3,
            "split": "train",
            "preference_statement": "p",
            "preference_elaboration": "e",
            "three_most_similar_preferences": [],
            "all_preferences_unprocessed": [1],
        },
        [
            pair(
                LONGER, chosen=REJECTED, rejected=CHOSEN, margin=3.0,
                meta={"split": "train", "preference_statement": "p", "preference_elaboration": "e",
                      "three_most_similar_preferences": [], "all_preferences_unprocessed": [1]},
            )
        ],
    ),
    (
        "helpsteer2-preference",
        {**STEER, "preference_strength": 0},
        [pair(chosen=REJECTED, rejected=CHOSEN, margin=0.0, tie=True)],
    ),
    (
        "helpsteer3",
        {**STEER3, "domain": "code", "language": "c", "individual_preference": [{"score": -1}]},
        [pair(margin=1.0, meta={"domain": "code", "language": "c", "individual_preference": [{"score": -1}]})],
    ),
    (
        "hh-rlhf",
        {
            side: "\n\nHuman: Why?\n\nAssistant: Say more.\n\nHuman: Why is it so?"
            f"\n\nAssistant: {text}\n\nA second part."
            for side, text in (("chosen", CHOSEN), ("rejected", REJECTED))
        },
        [pair(LONGER, f"{CHOSEN}\n\nA second part.", f"{REJECTED}\n\nA second part.")],
    ),
    (
        "hh-strength",
        {
            "chosen": ["Human: Why?", f"Assistant: {CHOSEN}"],
            "rejected": ["Human: Why?", f"Assistant: {REJECTED}"],
            "mean preference difference": 1.25,
            "std preference difference": 0.5,
            "chosen score list": [1.0],
            "rejected score list": [0.0],
            "GPT4 label": 1,
        },
        [
            pair(
                margin=1.25,
                meta={"std preference difference": 0.5, "chosen score list": [1.0], "rejected score list": [0.0],
                      "GPT4 label": 1},
            )
        ],
    ),
    (
        "webgpt",
        {
            **WEBGPT,
            "question": {"dataset": "eli5", "id": "q", "full_text": "Why?"},
            "quotes_0": {"title": []},
            "quotes_1": {"title": []},
            "tokens_0": {"prefix": [1]},
            "tokens_1": {"prefix": [2]},
        },
        [pair(margin=0.75, meta={"quotes_0": {"title": []}, "quotes_1": {"title": []}})],
    ),
    ("webgpt", {**WEBGPT, "score_0": 0, "score_1": 0}, [pair(chosen=REJECTED, rejected=CHOSEN, margin=0.0, tie=True)]),
]  # fmt: skip
