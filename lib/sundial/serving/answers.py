"""What request ids were answered, in memory, so that a caller who asks again gets the first answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from sundial.serving.records import Batch


class Answer(NamedTuple):
    """What a request id was answered."""

    score: float
    decision: bool
    version: int


class AnswerMemory:
    """The newest answers.

    Parameters
    ----------
    size : int
        How many to keep.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # a plain dict walks over all that it forgot before it finds its first
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def find(self, request_id: str) -> Answer | None:
        """Find what a request id was answered, if it is remembered."""
        return self._answers.get(request_id)

    def forget(self, request_ids: Iterable[str]) -> None:
        """Forget answers that turned out not to be on the disk."""
        for request_id in request_ids:
            self._answers.pop(request_id, None)

    def remember(self, batch: Batch) -> None:
        """Remember a batch; of an id that is there already the first answer stays."""
        rows = zip(batch.request_ids, batch.scores, batch.decisions, strict=True)
        self.recall((request_id, Answer(score, decision, batch.version)) for request_id, score, decision in rows)

    def recall(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Remember answers, oldest first."""
        known = self._answers
        for request_id, answer in answers:
            known.setdefault(request_id, answer)
        while len(known) > self.size:
            known.popitem(last=False)
