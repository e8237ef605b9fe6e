"""The prediction log for a person: what is in it, and its compaction by hand."""

from __future__ import annotations

from sundial.serving.archive import Archive
from sundial.serving.compaction import compact_log, shadow_positions
from sundial.serving.frames import list_segments, segment_path
from sundial.serving.positions import Position
from sundial.serving.predictions import production_folder
from sundial.serving.sources import RegistrySource
from sundial.serving.stores import count_after
from sundial.settings import Settings


def compact(pipeline: str, settings: Settings) -> str:
    """Compact the log, and let go of what the settings let go.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    settings : Settings
        Where the log is.

    Returns
    -------
    str
        One sentence that says what happened.
    """
    done = compact_log(pipeline, settings, shadow_positions(pipeline, RegistrySource(pipeline, settings), settings))
    if done.busy:
        return "another compaction is running"
    said = f"{done.segments} segments with {done.rows:,} rows are Parquet now"
    for count, what in (
        (done.duplicates, "repeated rows left out"),
        (done.lost_rows, "damaged rows lost"),
        (done.cut_bytes, "bytes of torn frames cut"),
        (done.dropped_rows, "old rows let go"),
    ):
        said += f", {count:,} {what}" if count else ""
    return said


def describe_log(pipeline: str, settings: Settings) -> dict[str, str]:
    """Say what is in the log of a pipeline.

    Returns
    -------
    dict of str to str
        In the order in which a person would ask.
    """
    folder = production_folder(pipeline, settings)
    ledger = Archive(folder).ledger()
    live = [segment_path(folder, writer, number) for writer, found in list_segments(folder).items() for number in found]
    archived = sum(file.rows for file in ledger.files)
    days = sorted({file.day for file in ledger.files})
    kept = sum(file.bytes for file in ledger.files)
    live_bytes = sum(path.stat().st_size for path in live)
    about = {
        "folder": str(folder),
        "rows": f"{count_after(pipeline, settings, Position())[0]:,}",
        "in segments": f"{len(live)} files, {live_bytes / 2**20:.1f} MiB",
        "in Parquet": f"{archived:,} rows, {len(ledger.files)} files, {kept / 2**20:.1f} MiB",
        "days in Parquet": f"{days[0]} to {days[-1]}" if days else "none",
    }
    segments = ledger.segments.values()
    for name, count in (
        ("repeated rows left out", sum(segment.duplicates for segment in segments)),
        ("damaged rows lost", sum(segment.lost_rows for segment in segments)),
        ("old rows let go", sum(segment.dropped_rows for segment in segments)),
    ):
        if count:
            about[name] = f"{count:,}"
    for alias, rows in ledger.held.items():
        about[f"kept for {alias}"] = f"{rows:,} rows that it has yet to score"
    return about
