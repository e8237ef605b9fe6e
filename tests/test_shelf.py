"""A shelf: files in a folder, or in a bucket of a real S3 server, whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from sundial.errors import ArtifactCorruptError, StoreError
from sundial.shelf import Shelf


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a place, of either kind."""
    return (
        str(tmp_path / "a place") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/deep/inside"
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Give some files, two of them alike, and one larger than what is held in memory."""
    folder = tmp_path / "own"
    (folder / "a b").mkdir(parents=True)
    contents = {"one": b"same", "a b/two": b"same", "empty": b"", "large": bytes(17 << 20)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_what_was_kept_is_fetched(place, files, tmp_path):
    """Byte for byte, with the times that the files had; equal bytes are kept once."""
    shelf = Shelf(place)
    shelf.write("list", {"why": "a test"}, shelf.keep(files))
    about, listed, _ = Shelf(place).read("list")
    shelf.fetch({tmp_path / "new" / name: entry for name, entry in listed.items()})

    assert {"why": "a test"} == about
    for name, path in files.items():
        assert path.read_bytes() == (tmp_path / "new" / name).read_bytes()
        assert path.stat().st_mtime_ns == (tmp_path / "new" / name).stat().st_mtime_ns
    assert 3 == len({entry.sha256 for entry in listed.values()})
    assert ["list", "objects"] == shelf.names()


def test_what_has_not_changed_is_not_read_again(place, files):
    """Its size and time are those of the list: so a second keeping costs nothing, and a changed file is seen."""
    shelf = Shelf(place)
    first = shelf.keep(files)
    before = files["one"].stat()
    files["one"].write_bytes(b"diff")
    os.utime(files["one"], ns=(before.st_mtime_ns, before.st_mtime_ns))
    files["empty"].write_bytes(b"not any more")
    second = shelf.keep(files, first)

    assert first["one"] == second["one"]
    assert first["empty"] != second["empty"]
    assert first != shelf.keep(files)


def test_damaged_bytes_are_refused_and_nothing_is_replaced(place, files, tmp_path):
    """The error names the file, and what was there before is there still."""
    shelf = Shelf(place)
    kept = shelf.keep({"one": files["one"]})
    name = f"objects/{kept['one'].sha256[:2]}/{kept['one'].sha256}"
    shelf._put(name, b"Same")
    target = tmp_path / "one"
    target.write_bytes(b"before")

    with pytest.raises(ArtifactCorruptError, match="which is one, is damaged"):
        shelf.fetch({target: kept["one"]})
    assert b"before" == target.read_bytes()
    assert ["one"] == [path.name for path in tmp_path.iterdir() if path.is_file()]


def test_what_is_gone_is_said_to_be(place, files, tmp_path):
    """Bytes that were swept away cannot be fetched, and the error says which file they were."""
    shelf = Shelf(place)
    kept = shelf.keep({"one": files["one"], "large": files["large"]})

    assert 1 == shelf.sweep({kept["large"].sha256})
    with pytest.raises(StoreError, match="does not hold one any more"):
        shelf.fetch({tmp_path / "one": kept["one"]})
    shelf.fetch({tmp_path / "large": kept["large"]})


def test_lists_that_another_has_written_are_seen_at_once(place, files):
    """No listing is remembered: another machine may write at any moment."""
    shelf = Shelf(place)

    assert ([], None) == (shelf.names("lists"), shelf.read("lists/first"))
    Shelf(place).write("lists/first", {}, {})
    assert ["first"] == shelf.names("lists")
    shelf.remove("lists/first")
    shelf.remove("lists/first")
    assert [] == Shelf(place).names("lists")


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a/../../outside"])
def test_a_list_names_nothing_outside_of_its_folder(place, files, path):
    """It came from elsewhere, and a path in it must not write where it likes."""
    shelf = Shelf(place)
    kept = shelf.keep(files)
    shelf.write("list", {}, {path: kept["one"]})

    with pytest.raises(ArtifactCorruptError, match="outside of its folder"):
        shelf.read("list")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://no-such-bucket/x", "make the bucket first"),
        ("nonsense://x", "Protocol not known"),
    ],
)
def test_a_place_that_is_not_there_is_a_sentence(bucket, files, place, said):
    """Before anything is written; the error names the place and what to do."""
    with pytest.raises(StoreError, match=said):
        Shelf(place).keep(files)


def test_a_server_that_is_away_is_a_sentence(files, monkeypatch):
    """The client's own errors do not come through, and no key stands in the message."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFNOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    client = fsspec.get_filesystem_class("s3")
    client.clear_instance_cache()  # a process has one environment, and keeps the connections that it made with it

    with pytest.raises(StoreError, match="s3://away cannot") as caught:
        Shelf("s3://away").keep({"one": files["one"]})
    client.clear_instance_cache()
    assert "of-nobody" not in str(caught.value)
    assert "OFNOBODY" not in str(caught.value)
