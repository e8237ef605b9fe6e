"""How a model's scores are computed: as the model itself does, or by a faster way that was seen to give the same.

Nothing is taken on trust. When a model is loaded its check rows are asked, and many variations of them: every value of
every category, missing ones, and numbers on the very edge of a split. Only where all answers are those of the model's
own pipeline, to 1e-12 and with every decision alike, does the faster way answer requests. And where a score comes as
close to the threshold as that, the model itself decides.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.serving.encoding import Encoding, NotEncodableError, UnknownValueError, make_encoding
from sundial.serving.masks import LeafMasks, NoMasksError, make_masks
from sundial.serving.schema import Schema
from sundial.serving.sources import Loaded, Servable
from sundial.serving.trees import NoTreesError, Trees, read_trees

LARGEST_DIFFERENCE = 1e-12
PROBES = 4000  # rows that are asked at most, half a second of work
SHUFFLED = 128
EDGES = 512
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # batches that are timed
REPEATS = 3

Scores = npt.NDArray[np.float64]
Row = tuple[Any, ...]
logger = logging.getLogger("sundial.serving")


@dataclass(frozen=True, eq=False)
class FastPath:
    """A faster way to a model's scores.

    Attributes
    ----------
    model : Servable
        The model, which answers where the faster way may not.
    schema : Schema
        What it takes.
    encoding : Encoding or None
        From rows to the estimator's matrix; None when the model answers from data frames.
    trees : Trees or LeafMasks or None
        What scores a small batch; None when the estimator always does.
    crossover : int
        Rows of the largest batch for which the trees were faster than the estimator.
    difference : float
        The largest that was seen between these scores and the model's own.
    reason : str
        Why there is no encoding or there are no trees; empty when there are both.
    """

    model: Servable
    schema: Schema
    encoding: Encoding | None = None
    trees: Trees | LeafMasks | None = None
    crossover: int = 0
    difference: float = 0.0
    reason: str = ""

    def score(self, columns: Sequence[Sequence[Any]]) -> Scores:
        """Compute the score of each row.

        Parameters
        ----------
        columns : sequence of sequences of n values
            Checked, in the order of the schema.

        Returns
        -------
        float64 array of shape (n,)
        """
        if self.encoding is None:
            return self._ask(columns)
        try:
            matrix = self.encoding.encode(columns)
        except UnknownValueError:  # the model has words for it
            return self._ask(columns)
        if self.trees is None or len(matrix) > self.crossover:
            return self._estimate(self.encoding, matrix)
        scores = self.trees.score(matrix)
        distance = np.abs(scores - self.model.threshold).min()
        if distance <= LARGEST_DIFFERENCE or math.isnan(distance):
            return self._estimate(self.encoding, matrix)
        return scores

    def _ask(self, columns: Sequence[Sequence[Any]]) -> Scores:
        return self.model.score(self.schema.frame(columns))

    def _estimate(self, encoding: Encoding, matrix: Scores) -> Scores:
        names = getattr(encoding.estimator, "feature_names_in_", None)
        table: Any = matrix.astype(object) if encoding.objects else matrix
        if names is not None:
            table = pd.DataFrame(table, columns=names, copy=False)
        return np.ascontiguousarray(encoding.estimator.predict_proba(table)[:, 1], np.float64)

    def describe(self) -> dict[str, Any]:
        """Say which way is taken, and why not a faster one."""
        way = "data frames" if self.encoding is None else "arrays"
        if self.trees is not None:
            way += " and tables of leaves" if isinstance(self.trees, LeafMasks) else " and treelite"
        return {
            "path": way,
            "up_to_rows": self.crossover if self.trees else 0,
            "largest_difference": self.difference,
            "reason": self.reason,
        }


def arm(loaded: Loaded) -> FastPath:
    """Find the fastest way to a model's scores that is seen to give the same.

    Parameters
    ----------
    loaded : Loaded
        A model.

    Returns
    -------
    FastPath
        Whatever goes wrong on the way is its reason: a model that can be loaded can be served.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # as in a server: what is timed here decides how requests are answered
        return _arm(loaded)


def _arm(loaded: Loaded) -> FastPath:
    slow = FastPath(loaded.model, loaded.schema)
    try:
        rows = _check_rows(loaded)
        if not rows:
            return _because(slow, "the model has no check rows")
        encoding = make_encoding(loaded.model, loaded.schema.frame, rows[0])
        trees, reason = _try_trees(encoding)
        probes = _vary(rows, encoding, trees, loaded.schema)
        try:
            expected = _ask(loaded, probes)
        except ValueError:  # many estimators refuse a missing value; then nobody is answered with one
            probes = [row for row in probes if None not in row]
            expected = _ask(loaded, probes)
    except (NotEncodableError, ValueError, TypeError, KeyError, AttributeError) as error:
        return _because(slow, str(error) if isinstance(error, NotEncodableError) else repr(error))
    columns: list[Any] = list(zip(*probes, strict=True))
    encoded = FastPath(loaded.model, loaded.schema, encoding, reason=reason)
    difference, wrong = _compare(lambda: encoded.score(columns), expected, loaded.threshold)
    if wrong:
        return _because(slow, f"arrays do not give what data frames do: {wrong}")
    if trees is None:
        return FastPath(loaded.model, loaded.schema, encoding, difference=difference, reason=reason)
    matrix = encoding.encode(columns)
    faster: Trees | LeafMasks | None = _try_masks(trees, matrix, expected)
    if faster is None:
        closest, wrong = _compare(lambda: trees.score(matrix), expected, loaded.threshold)
        if wrong:
            reason = f"treelite does not give what scikit-learn does: {wrong}"
            return FastPath(loaded.model, loaded.schema, encoding, difference=difference, reason=reason)
        faster, difference = trees, max(difference, closest)
    crossover = _find_crossover(encoded, faster, matrix)
    if not crossover:
        reason = "its trees are scored no faster than scikit-learn does"
        return FastPath(loaded.model, loaded.schema, encoding, difference=difference, reason=reason)
    return FastPath(loaded.model, loaded.schema, encoding, faster, crossover, difference)


def _try_masks(trees: Trees, matrix: Scores, expected: Scores) -> LeafMasks | None:
    """Make tables of trees, if there can be any, and see that they give the same to the last bit."""
    if trees.single:
        return None
    try:
        masks = make_masks(trees.model)
    except NoMasksError as error:
        logger.info("no tables of leaves: %s", error)
        return None
    if np.array_equal(masks.score(matrix), expected):
        return masks
    logger.info("no tables of leaves: their scores differ in the last bits")
    return None


def _ask(loaded: Loaded, rows: list[Row]) -> Scores:
    return loaded.model.score(loaded.schema.frame(list(zip(*rows, strict=True))))


def _because(path: FastPath, reason: str) -> FastPath:
    logger.info("answers from data frames: %s", reason)
    return FastPath(path.model, path.schema, reason=reason)


def _try_trees(encoding: Encoding) -> tuple[Trees | None, str]:
    try:
        return read_trees(encoding.estimator), ""
    except NoTreesError as error:
        return None, str(error)


def _check_rows(loaded: Loaded) -> list[Row]:
    """Give the rows that the model's card holds, as a request would."""
    check = getattr(loaded.model, "check_rows", None)
    if check is None:
        return []
    frame, _ = check()
    if len(frame) == 0:
        return []
    columns = frame[list(loaded.schema.features)].astype(object)
    return [
        tuple(None if pd.isna(value) else value for value in row) for row in columns.itertuples(index=False, name=None)
    ]


def _vary(rows: list[Row], encoding: Encoding, trees: Trees | None, schema: Schema) -> list[Row]:
    """Make rows that reach what the check rows alone do not."""
    kinds = list(schema.features.values())
    random = np.random.default_rng(0)
    shuffled = [
        tuple(rows[row][place] for place, row in enumerate(random.integers(0, len(rows), len(kinds))))
        for _ in range(SHUFFLED)
    ]
    found = [*rows, *shuffled]

    def put(place: int, value: Any) -> None:
        row = found[len(found) % (len(rows) + SHUFFLED)]
        found.append((*row[:place], value, *row[place + 1 :]))

    for place, kind in enumerate(kinds):
        for value in encoding.known(place)[:500]:
            put(place, value)
        if kind == "number":
            for _ in range(4):
                put(place, None)
    copied = dict(zip(encoding.copied[1], encoding.copied[0], strict=True))
    edges = [(copied[column], value) for column, value in (trees.thresholds if trees else []) if column in copied]
    for index in random.permutation(len(edges))[:EDGES]:
        place, value = edges[index]
        for close in (value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf)):
            if kinds[place] == "number":
                put(place, float(close))
            elif kinds[place] == "integer":
                put(place, math.floor(close))
    return found[:PROBES]


def _compare(score: Callable[[], Scores], expected: Scores, threshold: float) -> tuple[float, str]:
    """Compare scores with the model's own: the largest difference, and what is wrong, if anything is."""
    try:
        scores = score()
    except Exception as error:  # noqa: BLE001  whatever it raises, the model itself is there to answer
        return math.nan, repr(error)
    difference = float(np.abs(scores - expected).max())
    if not difference <= LARGEST_DIFFERENCE:  # so written that NaN is wrong too
        return difference, f"up to {difference:.2g} off in {len(expected)} rows"
    flipped = int(((scores >= threshold) != (expected >= threshold)).sum())
    return difference, f"{flipped} of {len(expected)} decisions differ" if flipped else ""


def _find_crossover(encoded: FastPath, trees: Trees | LeafMasks, matrix: Scores) -> int:
    """Measure up to which batch the trees are faster than the estimator."""
    assert encoded.encoding is not None  # noqa: S101  arm made it
    best = 0
    for size in SIZES:
        batch = np.ascontiguousarray(np.resize(matrix, (size, matrix.shape[1])))
        walked = _time(lambda batch=batch: trees.score(batch))  # type: ignore[misc]
        estimated = _time(lambda batch=batch: encoded._estimate(encoded.encoding, batch))  # type: ignore[misc]
        if walked > estimated:
            break
        best = size
    return best


def _time(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
