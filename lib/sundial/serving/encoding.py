"""From the rows of requests to the matrix that a fitted estimator takes, without a data frame between.

What the steps before the estimator do to a text or a truth value is looked up in tables, which are made by letting
these very steps encode every value they know. Numbers that they pass through are copied. Anything else is not encoded
here: the model then answers from data frames.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sundial.serving.sources import Servable

# A text that no training set holds: shows what the steps do with one that they do not know.
UNKNOWN = "\x00 in no training set \x00"
MOST_VALUES = 100_000  # of one feature; more would make loading slow
Matrix = npt.NDArray[np.float64]
Row = tuple[Any, ...]


class NotEncodableError(Exception):
    """The steps before the estimator do something that is not encoded here."""


class UnknownValueError(Exception):
    """A value that the steps themselves refuse; let them say so."""


class _Table(dict[Any, Any]):
    """What each value becomes; what an unknown one becomes."""

    unknown: Any = None

    def __missing__(self, value: Any) -> Any:
        if self.unknown is None:
            raise UnknownValueError(value)
        return self.unknown


@dataclass(frozen=True, eq=False)
class Encoding:
    """How rows become a matrix.

    Attributes
    ----------
    width : int
        Columns of the matrix.
    estimator : estimator
        What takes it.
    copied : tuple of list of int
        Positions of numbers in a row, and in the matrix.
    tables : tuple of (int, int, table)
        Position in a row, column of the matrix, and what each value becomes there.
    objects : bool
        Whether the steps give the estimator Python objects, as they do where numbers and truth values meet.
    """

    width: int
    estimator: Any
    copied: tuple[list[int], list[int]]
    tables: tuple[tuple[int, int, _Table], ...]
    objects: bool = False

    def encode(self, columns: Sequence[Sequence[Any]]) -> Matrix:
        """Encode checked values.

        Parameters
        ----------
        columns : sequence of sequences of n values
            In the order of the model's features.

        Returns
        -------
        float64 array of shape (n, width)

        Raises
        ------
        UnknownValueError
            When there is a value that the model's own steps refuse.
        """
        matrix = np.empty((len(columns[0]), self.width))
        sources, targets = self.copied
        if sources:
            # None becomes NaN, as to_array has it
            matrix[:, targets] = np.array([columns[source] for source in sources], np.float64).T
        for source, target, table in self.tables:
            matrix[:, target] = [table[value] for value in columns[source]]
        return matrix

    def known(self, source: int) -> list[Any]:
        """List the values of a feature that has tables."""
        return list(next((table for position, _, table in self.tables if position == source), ()))


def make_encoding(model: Servable, schema_frame: Callable[[Sequence[Sequence[Any]]], Any], base: Row) -> Encoding:
    """Find out how the rows of a model become what its estimator takes.

    Parameters
    ----------
    model : Servable
        A loaded model, with an attribute ``model``, the fitted estimator or pipeline, and ``prepare``.
    schema_frame : callable
        Makes the frame that the model takes from columns.
    base : tuple
        A row that the model takes.

    Returns
    -------
    Encoding

    Raises
    ------
    NotEncodableError
        Says what stands in the way.
    """
    kinds: Mapping[str, str] = getattr(model, "kinds", {})
    names = list(model.features)
    steps, estimator = _split(getattr(model, "model", None))
    if steps is None:
        wrong = [name for name in names if kinds.get(name) not in ("number", "integer", "boolean")]
        if wrong:
            raise NotEncodableError(f"{type(estimator).__name__} encodes {wrong[0]!r} itself")
        places = list(range(len(names)))
        return Encoding(len(names), estimator, (places, places), ())

    def run(rows: Iterable[Row]) -> npt.NDArray[Any]:
        frame = model.prepare(schema_frame(list(zip(*rows, strict=True))))  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a value is unknown is what is asked about
            found = steps.transform(frame)
        if not isinstance(found, np.ndarray):
            raise NotEncodableError(f"the steps give a {type(found).__name__}, not an array")
        return found

    def transform(rows: Iterable[Row]) -> Matrix:
        return run(rows).astype(np.float64)

    copied: tuple[list[int], list[int]] = ([], [])
    tables: list[tuple[int, int, _Table]] = []
    width = 0
    for step, source, targets in _parts(steps, names):
        width += len(targets)
        if step is None:
            if kinds[names[source]] not in ("number", "integer", "boolean"):
                raise NotEncodableError(f"{names[source]!r} is passed through as it is")
            copied[0].append(source)
            copied[1].append(targets[0])
            continue
        known = _categories(step, names[source], kinds[names[source]])
        encoded = transform([*_vary(base, source, known)])
        try:
            unknown = transform(_vary(base, source, [UNKNOWN]))[0]
        except ValueError:
            unknown = None
        if None not in known:
            try:
                missing = transform(_vary(base, source, [None]))
            except ValueError:
                missing = None
            if missing is not None:
                known, encoded = [*known, None], np.concatenate([encoded, missing])
        for target in targets:
            table = _Table(zip(known, encoded[:, target].tolist(), strict=True))
            table.unknown = None if unknown is None else float(unknown[target])
            tables.append((source, target, table))
    if width != transform([base]).shape[1]:
        raise NotEncodableError("the steps give more columns than can be accounted for")
    return Encoding(width, estimator, copied, tuple(tables), run([base]).dtype == object)


def _vary(base: Row, source: int, values: Iterable[Any]) -> list[Row]:
    """Repeat a row with one feature set to each of some values."""
    return [(*base[:source], value, *base[source + 1 :]) for value in values]


def _split(model: Any) -> tuple[Any, Any]:
    """Take a pipeline apart into the column transformer and the estimator; None when there is only an estimator."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline):
        return None, model
    *before, (_, estimator) = model.steps
    before = [step for _, step in before if step not in (None, "passthrough")]
    if not before:
        return None, estimator
    if len(before) > 1 or not isinstance(before[0], ColumnTransformer):
        kinds = ", ".join(type(step).__name__ for step in before)
        raise NotEncodableError(f"the steps before the estimator are {kinds}, not one ColumnTransformer")
    return before[0], estimator


def _parts(steps: Any, names: list[str]) -> Iterable[tuple[Any, int, list[int]]]:
    """List what a fitted column transformer does: step (None for a copy), position in a row, columns of its output."""
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder

    if list(steps.feature_names_in_) != names:
        raise NotEncodableError("the steps were fitted on other columns than the card has")
    for name, step, columns in steps.transformers_:
        if isinstance(step, str) and step == "drop":
            continue
        sources = [names.index(item) if isinstance(item, str) else int(item) for item in _as_list(columns, names)]
        if not sources:
            continue
        start, stop = steps.output_indices_[name].start, steps.output_indices_[name].stop
        copies = step == "passthrough" or (isinstance(step, FunctionTransformer) and step.func is None)
        if copies or type(step) is OrdinalEncoder:
            widths = [1] * len(sources)
        elif type(step) is OneHotEncoder:
            dropped = step.drop_idx_ if step.drop_idx_ is not None else [None] * len(sources)
            widths = [len(found) - (gone is not None) for found, gone in zip(step.categories_, dropped, strict=True)]
        else:
            raise NotEncodableError(f"step {name!r} is a {type(step).__name__}")
        if sum(widths) != stop - start:  # rare categories are put together, for one
            raise NotEncodableError(f"step {name!r} gives {stop - start} columns, and not {sum(widths)}")
        for position, (source, width) in enumerate(zip(sources, widths, strict=True)):
            targets = list(range(start, start + width))
            start += width
            yield (None if copies else _Column(step, position)), source, targets


@dataclass(frozen=True)
class _Column:
    """One of the columns that an encoder was fitted on."""

    encoder: Any
    position: int


def _as_list(columns: Any, names: list[str]) -> list[Any]:
    """List the columns that a part of a column transformer was given."""
    if isinstance(columns, str | int):
        return [columns]
    found = list(names[columns]) if isinstance(columns, slice) else list(columns)
    if any(isinstance(item, bool | np.bool_) for item in found):
        return [name for name, taken in zip(names, found, strict=True) if taken]
    return found


def _categories(column: _Column, name: str, kind: str) -> list[Any]:
    """List the values that an encoder knows of a feature, as a request holds them."""
    if kind not in ("text", "boolean"):
        raise NotEncodableError(f"{name!r}, a column of {kind}s, is encoded")
    found = column.encoder.categories_[column.position].tolist()
    if len(found) > MOST_VALUES:
        raise NotEncodableError(f"{name!r} has {len(found):,} values")
    fits = bool if kind == "boolean" else str
    return list(dict.fromkeys(value if type(value) is fits else None for value in found))
