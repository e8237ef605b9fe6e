"""What a frame of the prediction log holds: one batch, in columns, as msgpack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd

from sundial.serving.frames import Frame
from sundial.serving.schema import Kind, Values, to_array

# Columns that every row of the log has; a feature of one of these names is read back as <name>_feature.
FIXED = (
    "request_id",
    "entity",
    "event_time",
    "served_at",
    "score",
    "decision",
    "threshold",
    "model_version",
    "latency_ms",
    "key",
)


class Batch(msgspec.Struct, array_like=True, gc=False):
    """One batch of predictions, as a frame holds it.

    Attributes
    ----------
    version : int
        Model version that answered.
    threshold : float
        Scores at or above it were alerts.
    served_at : int
        Nanoseconds since 1970, UTC.
    request_ids : list of str
        A row each.
    entities : list
        A row each, or empty when nobody said.
    event_times : list
        Microseconds since 1970 on the wall clock, a row each, or empty.
    features : list of list
        A column each, in the order of the segment's header.
    scores : list of float
        A row each.
    decisions : list of bool
        A row each.
    latencies : list of float
        Milliseconds from arrival to the log, a row each.
    """

    version: int
    threshold: float
    served_at: int
    request_ids: list[str]
    entities: list[Any]
    event_times: list[int | None]
    features: list[list[Any]]
    scores: list[float]
    decisions: list[bool]
    latencies: list[float]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def encode_batch(batch: Batch) -> bytes:
    """Write a batch as the payload of a frame."""
    return _encoder.encode(batch)


def decode_batch(frame: Frame) -> Batch:
    """Read the payload of a frame."""
    return _decoder.decode(frame.payload)


def kinds_of(header: Mapping[str, Any]) -> dict[str, Kind]:
    """Give the kinds of the features that a segment's rows hold, in their order."""
    return {name: cast(Kind, kind) for name, kind in header["features"].items()}


def join_features(batches: Iterable[Batch], width: int) -> list[Values]:
    """Put the features of several batches of one segment end to end, a list a column."""
    columns: list[Values] = [[] for _ in range(width)]
    for batch in batches:
        for column, values in zip(columns, batch.features, strict=True):
            column.extend(values)
    return columns


def to_table(header: Mapping[str, Any], keyed: Iterable[tuple[int, Batch]]) -> pd.DataFrame:
    """Turn batches of one segment into a table.

    Parameters
    ----------
    header : mapping
        The segment's.
    keyed : iterable of int and Batch
        Each batch with the key of its first row.

    Returns
    -------
    DataFrame
        A row a prediction; see :func:`sundial.serving.predictions.read_log`.
    """
    pairs = list(keyed)
    batches = [batch for _, batch in pairs]
    kinds = kinds_of(header)
    sizes = [len(batch.request_ids) for batch in batches]

    def spread(values: list[Any], dtype: Any) -> Any:
        return np.repeat(np.array(values, dtype), sizes)

    def flat(name: str) -> Values:
        return [value for batch in batches for value in getattr(batch, name)]

    def padded(name: str) -> Values:
        return [value for batch in batches for value in (getattr(batch, name) or [None] * len(batch.request_ids))]

    features = {
        f"{name}_feature" if name in FIXED else name: to_array(kind, values)
        for (name, kind), values in zip(kinds.items(), join_features(batches, len(kinds)), strict=True)
    }
    starts = spread([key for key, _ in pairs], np.int64)
    within = np.arange(len(starts)) - np.repeat(np.cumsum([0, *sizes[:-1]]) if sizes else [], sizes)
    entities = padded("entities")
    return pd.DataFrame(
        {
            "request_id": pd.array(flat("request_ids"), dtype="str"),
            "entity": entities if None not in entities else np.array(entities, object),
            "event_time": to_array("time", padded("event_times")),
            "served_at": pd.DatetimeIndex(spread([batch.served_at for batch in batches], "datetime64[ns]"), tz="UTC"),
            **features,
            "score": np.array(flat("scores"), np.float64),
            "decision": np.array(flat("decisions"), np.bool_),
            "threshold": spread([batch.threshold for batch in batches], np.float64),
            "model_version": spread([batch.version for batch in batches], np.int64),
            "latency_ms": np.array(flat("latencies"), np.float64),
            "key": starts + within.astype(np.int64),
        }
    )
