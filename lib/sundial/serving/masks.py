"""Small trees scored without walking them: each feature's value rules out leaves, and the first one left is the answer.

The method of QuickScorer (Lucchese et al., "QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles of
Regression Trees", SIGIR 2015, section 3), a batch at a time with numpy. A tree's leaves are the bits of a word, from
left to right. For each feature the values at which trees split it make bins, and for each bin a table holds the leaves
of every tree that are still possible there. Of the words of all features together the lowest bit is the exit leaf.
What costs a walker a step a node costs this a lookup a feature, for all trees at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Words = npt.NDArray[Any]
LARGEST_BYTES = 16 << 20  # of the tables; larger ones leave the processor's cache, which is all that makes this fast
WORDS = (np.uint16, np.uint32)
LOWEST = np.array([(value & -value).bit_length() - 1 for value in range(1 << 16)], np.int8)  # -1 where no bit is set
NUMBER, CATEGORY, AT_MOST = 1, 2, 3  # as treelite numbers tests of nodes, and "at most"


class NoMasksError(Exception):
    """An ensemble that is not scored so."""


@dataclass(frozen=True, eq=False)
class _Table:
    """One feature: where its bins are, and which leaves each leaves possible.

    Attributes
    ----------
    column : int
        Of the matrix.
    edges : float64 array of shape (bins - 2,) or None
        Values at which trees split it, ascending; None for a category, whose bins are its codes.
    words : array of shape (bins, trees)
        The last bin is that of a missing value, the one before of a value beyond all others.
    """

    column: int
    edges: Matrix | None
    words: Words

    def bins(self, values: Matrix) -> npt.NDArray[np.int64]:
        """Find the bin of each value."""
        last = len(self.words) - 1
        if self.edges is not None:
            found = np.searchsorted(self.edges, values)  # from the left: "at most" is decided as trees do
            return np.where(np.isnan(values), last, found)
        inside = (values >= 0) & (values < last - 1)
        codes = np.where(inside, values, last - 1).astype(np.int64)
        return np.where(np.isnan(values), last, codes)


@dataclass(frozen=True, eq=False)
class LeafMasks:
    """A binary classifier's boosted trees, as tables of possible leaves.

    Attributes
    ----------
    tables : tuple of table
        A feature each that is tested anywhere.
    starts : int64 array of shape (trees,)
        Where the leaves of each tree begin.
    leaves : float64 array
        Values of all leaves of all trees, from left to right.
    base : float
        Log odds before the first tree.
    """

    tables: tuple[_Table, ...]
    starts: npt.NDArray[np.int64]
    leaves: Matrix
    base: float

    def score(self, matrix: Matrix) -> Matrix:
        """Compute the probability of the second class.

        Parameters
        ----------
        matrix : float64 array of shape (n, columns)

        Returns
        -------
        float64 array of shape (n,)
        """
        first, *others = self.tables
        possible = first.words.take(first.bins(matrix[:, first.column]), axis=0)
        space = np.empty_like(possible)
        for table in others:
            # bins are inside by making: "clip" only spares numpy a copy
            table.words.take(table.bins(matrix[:, table.column]), axis=0, out=space, mode="clip")
            np.bitwise_and(possible, space, out=possible)
        if possible.dtype == np.uint16:
            exits = LOWEST.take(possible)
        else:
            low = (possible & np.uint32(0xFFFF)).astype(np.uint16)
            high = (possible >> np.uint32(16)).astype(np.uint16)
            exits = np.where(low != 0, LOWEST.take(low), LOWEST.take(high) + np.int8(16))
        values = np.empty((len(matrix), len(self.starts) + 1))
        values[:, 0] = self.base
        self.leaves.take(exits + self.starts, out=values[:, 1:], mode="clip")
        # one after the other, from the base on, and the C library's exponential: to the last bit scikit-learn's sum
        raw = np.cumsum(values, axis=1)[:, -1].tolist()
        return np.array([1.0 / (1.0 + math.exp(-value)) for value in raw])


def make_masks(model: Any) -> LeafMasks:
    """Make the tables of an ensemble that treelite read.

    Parameters
    ----------
    model : treelite.Model

    Returns
    -------
    LeafMasks

    Raises
    ------
    NoMasksError
        When it is not a sum of small trees under a logistic function, or its tables are too large.
    """
    header = model.get_header_accessor()
    if header.get_field("postprocessor") != "sigmoid" or int(header.get_field("leaf_vector_shape").prod()) != 1:
        raise NoMasksError("it is no sum under a logistic function")
    if float(header.get_field("sigmoid_alpha")[0]) != 1 or int(header.get_field("average_tree_output")[0]):
        raise NoMasksError("its sum is scaled")
    trees = [_Tree.read(model.get_tree_accessor(number)) for number in range(model.num_tree)]
    most = max((len(tree.leaves) for tree in trees), default=0)
    word = next((kind for kind in WORDS if most <= 8 * np.dtype(kind).itemsize), None)
    if word is None or not trees:
        raise NoMasksError(f"a tree has {most} leaves")
    tests: dict[int, list[tuple[int, _Test]]] = {}
    for number, tree in enumerate(trees):
        for test in tree.tests:
            tests.setdefault(test.column, []).append((number, test))
    tables, size = [], 0
    for column, several in sorted(tests.items()):
        table = _make_table(column, several, len(trees), word)
        size += table.words.nbytes
        if size > LARGEST_BYTES:
            raise NoMasksError(f"its tables are larger than {LARGEST_BYTES >> 20} MiB")
        tables.append(table)
    if not tables:
        raise NoMasksError("it tests nothing")
    starts = np.cumsum([0, *(len(tree.leaves) for tree in trees)])[:-1].astype(np.int64)
    leaves = np.array([leaf for tree in trees for leaf in tree.leaves], np.float64)
    return LeafMasks(tuple(tables), starts, leaves, float(header.get_field("base_scores")[0]))


@dataclass(frozen=True)
class _Test:
    """A node: which leaves it rules out when the answer is no, and for which values that is."""

    column: int
    threshold: float | None  # at most this is yes; None for a category
    codes: frozenset[int]
    yes: bool  # whether the codes are those of yes
    missing: bool  # the answer for a missing value
    ruled_out: int

    def passes(self, code: int) -> bool:
        """Answer for a category."""
        return (code in self.codes) == self.yes


@dataclass(frozen=True)
class _Tree:
    """Its tests, and its leaves from left to right."""

    tests: list[_Test]
    leaves: list[float]

    @classmethod
    def read(cls, tree: Any) -> _Tree:
        """Read a tree of treelite's."""
        names = ("node_type", "cleft", "cright", "split_index", "threshold", "cmp", "default_left", "leaf_value")
        kind, left, right, column, threshold, compared, default, value = (
            tree.get_field(name).tolist() for name in names
        )
        lists = tree.get_field("category_list").tolist()
        begins, ends, of_right = (
            tree.get_field(f"category_list_{name}").tolist() for name in ("begin", "end", "right_child")
        )
        tests: list[_Test] = []
        leaves: list[float] = []

        def visit(node: int) -> None:
            if left[node] < 0:
                leaves.append(value[node])
                return
            numeric = kind[node] == NUMBER
            if not (numeric and compared[node] == AT_MOST) and kind[node] != CATEGORY:
                raise NoMasksError("a node tests something else than at most a number, or some categories")
            before = len(leaves)
            visit(left[node])
            codes = frozenset(lists[begins[node] : ends[node]])
            test = _Test(
                column[node],
                threshold[node] if numeric else None,
                codes,
                not of_right[node],
                bool(default[node]),
                (1 << len(leaves)) - (1 << before),
            )
            tests.append(test)
            visit(right[node])

        visit(0)
        return cls(tests, leaves)


def _make_table(column: int, tests: list[tuple[int, _Test]], trees: int, word: Any) -> _Table:
    """Make the table of one feature."""
    numeric = {test.threshold is not None for _, test in tests}
    if len(numeric) > 1:
        raise NoMasksError(f"column {column} is tested as a number and as a category")
    full = np.iinfo(word).max
    if numeric == {True}:
        edges = np.unique([test.threshold for _, test in tests]).astype(np.float64)
        words = np.full((len(edges) + 2, trees), full, word)
        for tree, test in tests:
            # a value of bin b is at most edge b, and above all before it
            above = int(np.searchsorted(edges, test.threshold or 0.0)) + 1
            words[above:-1, tree] &= word(full ^ test.ruled_out)
            if not test.missing:
                words[-1, tree] &= word(full ^ test.ruled_out)
        return _Table(column, edges, words)
    codes = max((code for _, test in tests for code in test.codes), default=0) + 1
    words = np.full((codes + 2, trees), full, word)
    for tree, test in tests:
        no = [code for code in range(codes + 1) if not test.passes(code)]  # the last stands for any other
        words[no, tree] &= word(full ^ test.ruled_out)
        if not test.missing:
            words[-1, tree] &= word(full ^ test.ruled_out)
    return _Table(column, None, words)
