"""Stop strings cut tokens, log-probabilities and text, wherever rounds end."""

import dataclasses

import numpy as np
import pytest

from rmjax.sampling import scheduler
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.sampling.stops import Stops

A, B, C, SPACE, AB = 1, 2, 3, 27, 28


def test_cut_after_the_token_that_completes_the_string(chat):
    stops = Stops(chat, ("bc", "a a"))
    assert stops.cut([A, B, C, A]) == (3, "a")
    assert stops.cut([A, AB, C, A]) == (3, "aa")  # begins within a token
    assert Stops(chat, ("ca",)).cut([C, AB, B]) == (2, "")  # ends within a token, whose rest goes with it
    assert stops.cut([A, SPACE, A, B, C]) == (3, "")  # the first one in the text
    assert stops.cut([A, B, A, C]) is None
    assert stops.cut([]) is None


def test_recent_looks_at_the_end_only(chat):
    stops = Stops(chat, ("bc",))
    assert stops.recent([A] * 100 + [B, C], 1)
    assert not stops.recent([B, C] + [A] * 100, 1)
    assert not Stops(chat, ())


def test_the_last_tokens_may_read_otherwise_alone(chat):
    """A sample must not end where its whole text holds no stop string."""
    mark = dataclasses.make_dataclass("Mark", ["text"])(lambda ids: "#" * (ids[0] == B) + chat.text(ids))
    assert not Stops(mark, ("#",)).recent([A] * 100 + [B] * 100, 16)


@pytest.mark.parametrize("look", [1, 5, 16])
def test_samples_end_at_the_first_stop_string(tiny, chat, monkeypatch, look):
    """What is kept is the unstopped sample up to the string, however often the host looks for it."""
    monkeypatch.setattr(scheduler, "LOOK", look)
    asked = [Request(f"r{i}", [3 + i, 5, 8], 8) for i in range(4)]
    run = lambda **kw: Sampler(*tiny, chat, Sampling(max_new_tokens=40, **kw), seed=2, quiet=True, slots=2).run(asked)
    free = run()
    letters = "".join(r.text for r in free)
    stop = max({letters[i : i + 2] for i in range(len(letters) - 1)}, key=letters.count)
    hits = 0
    for whole, cut in zip(free, run(stop=(stop, "#")), strict=True):
        assert (cut.id, cut.index) == (whole.id, whole.index)
        at = whole.text.find(stop)
        if at < 0:
            assert cut.tokens == whole.tokens and cut.text == whole.text and cut.finish == whole.finish
            continue
        hits += 1
        kept = len(cut.tokens)
        assert cut.finish == "stop" and cut.text == whole.text[:at]
        assert cut.tokens == whole.tokens[:kept] and len(cut.logps) == kept
        np.testing.assert_allclose(cut.logps, whole.logps[:kept], atol=1e-5)
        assert stop in chat.text(cut.tokens) and stop not in chat.text(cut.tokens[:-1])
    assert hits >= 3
