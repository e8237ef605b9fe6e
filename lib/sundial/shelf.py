"""Files kept elsewhere: in a folder, or at any URL that fsspec knows, such as ``s3://bucket/prefix``.

<place>/
    objects/ab/ab12...    the bytes of a file, named by their SHA-256
    <name>.json           a list: which paths there were, with which bytes; written last

What is there is never changed: a reader sees an old list or a new one, each with all its bytes. So writing may be
killed at any moment and begun again, and the bytes of a file are checked against their name whenever they are fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sundial.errors import ArtifactCorruptError, StoreError, SundialError
from sundial.formats import hash_file, write_bytes_atomically

# What waits for a network rather than for a processor.
AT_A_TIME = 8
IN_MEMORY = 16 << 20
HINT = "check the address, the credentials in the environment, and the network"


@dataclass(frozen=True)
class Entry:
    """One file of a list.

    Attributes
    ----------
    sha256 : str
        Of its bytes, and their name on the shelf.
    bytes : int
        How many.
    changed : int
        When the file was last changed, in nanoseconds since 1970.
    """

    sha256: str
    bytes: int
    changed: int


Files = Mapping[str, Entry]


class Shelf:
    """Keeps files, and lists of them.

    Parameters
    ----------
    place : str
        A folder, or a URL.

    Raises
    ------
    StoreError
        When nothing here knows such a URL.
    """

    def __init__(self, place: str) -> None:
        import fsspec  # a command that needs no shelf need not wait for it

        if place.startswith("file://"):
            place = unquote(urlsplit(place).path)
        self.place = place if "://" in place else Path(place).expanduser().resolve().as_uri()
        path = self.place if "://" in place else str(Path(place).expanduser().resolve())  # a URI has no spaces
        with self._translated("be opened"):
            # a listing that is remembered would hide what another machine has written since
            self._files, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
        self._root = root.rstrip("/")
        self._is_local = "file" in (self._files.protocol, *self._files.protocol)

    def keep(self, files: Mapping[str, Path], known: Files | None = None) -> dict[str, Entry]:
        """Keep files; one that is gone meanwhile is left out.

        Parameters
        ----------
        files : mapping of str to Path
            Name in the list to file. Each is kept as it is at one moment, also while it is appended to.
        known : mapping of str to Entry, optional
            A list that is on the shelf. What has the size and the time of its entry is not read again, and bytes that
            it names are not sent again.

        Returns
        -------
        dict of str to Entry
            By name; not yet a list on the shelf, see :meth:`write`.

        Raises
        ------
        StoreError
            When a file cannot be sent.
        """
        known = known or {}
        sent = {entry.sha256 for entry in known.values()}

        def keep(item: tuple[str, Path]) -> tuple[str, Entry] | None:
            try:
                return item[0], self._keep(item[1], known.get(item[0]), sent)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return dict(sorted(done for done in pool.map(keep, files.items()) if done is not None))

    def fetch(self, files: Mapping[Path, Entry]) -> None:
        """Fetch files to where they belong; one that is there already, with these bytes, is left alone.

        Parameters
        ----------
        files : mapping of Path to Entry
            Each is replaced as a whole, and gets the time that it had.

        Raises
        ------
        ArtifactCorruptError
            When what is on the shelf is not what its name says.
        StoreError
            When it is not there, or cannot be fetched.
        """
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for _ in pool.map(self._fetch, files.keys(), files.values()):
                pass  # raises what a thread raised

    def write(self, name: str, content: Mapping[str, Any], files: Files) -> str:
        """Write a list, once all that it names is there; give the SHA-256 of what was written."""
        body = {**content, "files": {path: asdict(entry) for path, entry in files.items()}}
        data = (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self._translated(f"take {name}.json"):
            self._put(f"{name}.json", data)
        return hashlib.sha256(data).hexdigest()

    def read(self, name: str) -> tuple[dict[str, Any], dict[str, Entry], str] | None:
        """Read a list: what it says, the files that it names, and its own SHA-256; None when there is none.

        Raises
        ------
        ArtifactCorruptError
            When it is no list.
        StoreError
            When it cannot be read.
        """
        try:
            with self._translated(f"give {name}.json"):
                data = bytes(self._files.cat_file(f"{self._root}/{name}.json"))
        except FileNotFoundError:
            return None
        try:
            content = json.loads(data)
            files = {path: Entry(**entry) for path, entry in content.pop("files").items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactCorruptError(f"{self.place}/{name}.json is no list of files: {error!r}") from error
        for path in files:  # it came from elsewhere, and says where to write
            if path.startswith("/") or ".." in Path(path).parts:
                raise ArtifactCorruptError(f"{self.place}/{name}.json names {path!r}, which is outside of its folder")
        return content, files, hashlib.sha256(data).hexdigest()

    def names(self, folder: str = "") -> list[str]:
        """List what is in a folder of the shelf, sorted, without the ``.json`` of lists."""
        path = f"{self._root}/{folder}".rstrip("/")
        try:
            with self._translated(f"list {folder}"):
                found = self._files.ls(path, detail=False)
        except FileNotFoundError:
            return []
        names = {
            item.rstrip("/").rpartition("/")[2].removesuffix(".json") for item in found if item.rstrip("/") != path
        }
        return sorted(name for name in names if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a list; its bytes stay, see :meth:`sweep`. One that is not there is no error."""
        with suppress(FileNotFoundError), self._translated(f"remove {name}.json"):
            self._files.rm_file(f"{self._root}/{name}.json")

    def sweep(self, wanted: set[str]) -> int:
        """Remove the bytes that no list names any more; give how many files that were."""
        with self._translated("be swept"):
            try:
                found = self._files.find(f"{self._root}/objects")
            except FileNotFoundError:
                return 0
            gone = [path for path in found if path.rpartition("/")[2] not in wanted]
            for path in gone:
                self._files.rm_file(path)
        return len(gone)

    def _keep(self, path: Path, known: Entry | None, sent: set[str]) -> Entry:
        status = path.stat()
        if known is not None and (known.bytes, known.changed) == (status.st_size, status.st_mtime_ns):
            return known
        with tempfile.TemporaryDirectory(prefix="sundial-shelf-") as folder:
            copy: Path | bytes  # what is sent is what was hashed, whatever becomes of the file meanwhile
            if status.st_size <= IN_MEMORY:
                copy = path.read_bytes()
                size, sha256 = len(copy), hashlib.sha256(copy).hexdigest()
            else:
                copy = Path(shutil.copyfile(path, Path(folder) / "copy"))
                size, sha256 = copy.stat().st_size, hash_file(copy)
            if sha256 not in sent:
                with self._translated(f"take {path}"):
                    self._put(_object(sha256), copy)
        return Entry(sha256, size, status.st_mtime_ns)

    def _put(self, name: str, content: bytes | Path) -> None:
        """Put bytes, or a file, in one go: a name stands for nothing or for all of it."""
        try:
            self._put_at(f"{self._root}/{name}", content)
        except FileNotFoundError as error:  # the bucket: a file that went meanwhile has been read by now
            raise StoreError(f"{self.place} is not there: {error}", hint="make the bucket first") from error

    def _put_at(self, target: str, content: bytes | Path) -> None:
        if self._is_local and isinstance(content, bytes):
            write_bytes_atomically(Path(target), content, durable=True)
        elif self._is_local:
            part = Path(f"{target}.{os.getpid()}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, part)
            part.replace(target)
        elif isinstance(content, bytes):
            self._files.pipe_file(target, content)
        else:
            self._files.put_file(str(content), target)

    def _fetch(self, target: Path, entry: Entry) -> None:
        if target.is_file() and target.stat().st_size == entry.bytes and hash_file(target) == entry.sha256:
            os.utime(target, ns=(entry.changed, entry.changed))
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        source = f"{self._root}/{_object(entry.sha256)}"
        try:
            try:
                with self._translated(f"give {target.name}"):
                    self._files.get_file(source, name)
            except FileNotFoundError as error:
                raise StoreError(
                    f"{self.place} does not hold {target.name} any more: {_object(entry.sha256)} is gone"
                ) from error
            if hash_file(temporary) != entry.sha256:
                raise ArtifactCorruptError(
                    f"{self.place}/{_object(entry.sha256)}, which is {target.name}, is damaged: its SHA-256 is another",
                    hint="take an older backup, or the same file from another machine",
                )
            temporary.chmod(0o644)
            os.utime(temporary, ns=(entry.changed, entry.changed))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn what fsspec and the clients below it raise into ours; what is merely not there stays what it is."""
        try:
            yield
        except (FileNotFoundError, SundialError):
            raise
        except ImportError as error:
            raise StoreError(
                f"{self.place} needs a package that is not installed: {error}", hint="pip install 'sundial[s3]'"
            ) from error
        except _failures() as error:
            first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise StoreError(f"{self.place} cannot {what}: {first}", hint=HINT) from error


def _object(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def _failures() -> tuple[type[Exception], ...]:
    """Name what files and clients raise; a client that was never loaded raised nothing."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, ValueError, *((botocore.BotoCoreError, botocore.ClientError) if botocore else ()))
