"""Stop strings: where a completion's text ends before its tokens do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Stops:
    """Finds stop strings in tokens. What counts is the decoded text, so a string may begin and end within tokens.

    A completion is cut after the first token at which its text holds a stop string; what the device drew beyond it is
    dropped. The cut is a function of the tokens alone: how often the host looks does not matter.
    """

    def __init__(self, chat: Any, strings: Sequence[str]) -> None:
        """`chat` decodes ids to text (`text`)."""
        self._chat = chat
        self._strings = tuple(strings)
        # A character may take four tokens; a string that hides from this window is found when the sample is complete.
        self._window = 4 * max(map(len, strings), default=0) + 8

    def __bool__(self) -> bool:
        return bool(self._strings)

    def recent(self, tokens: Sequence[int], new: int) -> bool:
        """Whether there is a stop string; one that ended before the last `new` tokens is not looked for."""
        # The last tokens alone may read otherwise than after those before them.
        seems = self._find(self._chat.text(tokens[-(new + self._window) :])) is not None
        return seems and self._find(self._chat.text(tokens)) is not None

    def cut(self, tokens: Sequence[int]) -> tuple[int, str] | None:
        """How many tokens stay, and the text before the first stop string; None where there is no stop string."""
        if self._find(self._chat.text(tokens)) is None:
            return None
        low, high = 0, len(tokens)  # text(tokens[:high]) holds a stop string, text(tokens[:low]) does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._find(self._chat.text(tokens[:middle])) is not None else (middle, high)
        text = self._chat.text(tokens[:high])
        return high, text[: self._find(text)]

    def _find(self, text: str) -> int | None:
        """Where the first of the stop strings begins."""
        found = [at for string in self._strings if (at := text.find(string)) >= 0]
        return min(found, default=None)
