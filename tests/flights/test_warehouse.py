"""The warehouse: complete, named, in local time, and built once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from flights.source import connect, query
from flights.warehouse import build_warehouse, name_flights, read_flights, read_weather

FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,\
air_time,distance,hour,minute,time_hour
2013,11,3,130,30,60,300,200,60,UA,1,N1,EWR,ORD,120,719,0,30,2013-11-03T04:00:00Z
2013,11,3,130,30,120,400,200,120,UA,2,N2,EWR,ORD,120,719,0,30,2013-11-03T04:00:00Z
2013,11,3,,600,,,800,,UA,3,,EWR,ORD,,719,6,0,2013-11-03T11:00:00Z
2013,11,3,605,600,5,,800,,UA,4,N4,EWR,ORD,,719,6,0,2013-11-03T11:00:00Z
"""
WEATHER = """\
origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
EWR,2013,11,3,1,51,40,70,10,5,,0,1010,10,2013-11-03T06:00:00Z
EWR,2013,11,3,1,52,40,70,10,5,,0,1010,10,2013-11-03T05:00:00Z
EWR,2013,11,3,2,50,40,70,10,5,,0,1010,10,2013-11-03T07:00:00Z
"""


@pytest.fixture
def small(tmp_path) -> Path:
    """Folder with four flights and three reports of the night in which the clocks went back."""
    folder = tmp_path / "csv"
    folder.mkdir()
    pd.read_csv(pd.io.common.StringIO(FLIGHTS)).to_csv(folder / "flights.csv.zip", index=False)
    (folder / "weather.csv").write_text(WEATHER)
    (folder / "airlines.csv").write_text("carrier,name\nUA,United Air Lines Inc.\n")
    (folder / "airports.csv").write_text("faa,name\nEWR,Newark\n")
    return folder


def test_every_flight_is_there_once():
    """All 336,776 flights of 2013 have an id of their own."""
    with connect("2014-01-05") as warehouse:
        found = query(warehouse, "SELECT count(*) AS rows, count(DISTINCT flight_id) AS ids FROM flights")

    assert found.loc[0].tolist() == [336_776, 336_776]


def test_outcomes_of_the_year():
    """Cancelled and diverted flights are as many as the csv has without departure and without arrival delay."""
    with connect("2014-01-05") as warehouse:
        found = query(warehouse, "SELECT outcome, count(*) AS rows FROM flights GROUP BY 1").set_index("outcome")

    assert found["rows"].to_dict() == {"arrived": 327_346, "cancelled": 8_255, "diverted": 1_175}


def test_names_can_be_read():
    """An id says date, carrier, number, airport and local time."""
    with connect("2014-01-05") as warehouse:
        found = query(warehouse, "SELECT * FROM flights WHERE flight_id = '2013-01-01-UA-1545-EWR-0515'")

    assert [("IAH", pd.Timestamp("2013-01-01 05:15"), pd.Timestamp("2013-01-01 05:17"))] == list(
        found[["dest", "scheduled_departure", "departure"]].itertuples(index=False, name=None)
    )


def test_equal_names_are_numbered():
    """Flights that would share an id get -2 and -3 in the order of the table."""
    row = {"scheduled_departure": pd.Timestamp("2013-10-07 05:15"), "carrier": "UA", "flight": 9, "origin": "EWR"}
    names = name_flights(pd.DataFrame([row, row, {**row, "origin": "JFK"}, row]))

    expected = ["2013-10-07-UA-9-EWR-0515", "2013-10-07-UA-9-EWR-0515-2", "2013-10-07-UA-9-JFK-0515"]
    assert [*expected, "2013-10-07-UA-9-EWR-0515-3"] == names.tolist()


def test_times_survive_the_change_of_clocks(small):
    """A delay of an hour and one of two end at the same local time when the clocks go back between them."""
    flights = read_flights(small / "flights.csv.zip").set_index("flight")

    assert pd.Timestamp("2013-11-03 01:30") == flights.loc[1, "departure"] == flights.loc[2, "departure"]
    assert pd.Timestamp("2013-11-03 03:00") == flights.loc[1, "outcome_at"]
    assert pd.Timestamp("2013-11-03 04:00") == flights.loc[2, "outcome_at"]


def test_when_an_outcome_happened(small):
    """Air time and half an hour after departure; at once when cancelled; 12.5 hours after departure when diverted."""
    flights = read_flights(small / "flights.csv.zip").set_index("flight")

    assert flights["outcome"].sort_index().tolist() == ["arrived", "arrived", "cancelled", "diverted"]
    assert pd.Timestamp("2013-11-03 06:00") == flights.loc[3, "outcome_at"] == flights.loc[3, "visible_from"]
    assert pd.Timestamp("2013-11-03 18:35") == flights.loc[4, "outcome_at"]


def test_the_repeated_hour_keeps_its_later_report(small):
    """Of two reports for 1:00 the one in winter time stays, and each is known when its hour is over."""
    weather = read_weather(small / "weather.csv")

    assert weather["temp"].tolist() == [51, 50]
    assert [pd.Timestamp("2013-11-03 02:00"), pd.Timestamp("2013-11-03 03:00")] == weather["known_at"].tolist()


def test_two_builders_make_one_warehouse(small, tmp_path):
    """Builders at the same time leave one complete folder and nothing beside it."""
    folder = tmp_path / "warehouse" / "flights"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: build_warehouse(folder, small), range(4)))

    files = ["airlines.parquet", "airports.parquet", "flights.parquet", "warehouse.json", "weather.parquet"]
    assert files == sorted(path.name for path in folder.iterdir())
    assert [folder] == list(folder.parent.iterdir())


def test_a_failed_build_leaves_nothing(small, tmp_path):
    """When a csv file is missing nothing is left that could be taken for a warehouse."""
    (small / "airports.csv").unlink()
    with pytest.raises(FileNotFoundError):
        build_warehouse(tmp_path / "warehouse" / "flights", small)

    assert list((tmp_path / "warehouse").iterdir()) == []
