"""How artifacts look on disk: Parquet for frames, JSON for dicts, skops for models. No pickle, ever.

The same value always gives the same bytes, so that hashes can tell whether two runs made the same thing.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, ModelRefusedError, SundialError

# What skops does not trust by itself and we do, for files whose hash we wrote ourselves: the nodes of scikit-learn's
# trees are not bounds-checked when they are loaded. The list is here, and never taken from a file.
# Boosting on categorical columns keeps a partial of check_array; what a partial calls must be trusted by itself.
TRUSTED_TYPES: tuple[str, ...] = (
    "functools.partial",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)
SUFFIXES = (".parquet", ".json", ".skops")


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes_atomically(path: Path, data: bytes, *, durable: bool = False) -> Path:
    """Write a file under a temporary name, then rename it: readers see the old file or the new, never half.

    Parameters
    ----------
    path : Path
        Where; missing folders are made.
    data : bytes
        What.
    durable : bool
        Wait until it is on the disk, so that not even a power cut takes it back.

    Returns
    -------
    Path
        The same path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide reports from the other people of the team
        temporary.replace(path)
        if durable:
            sync_file(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def sync_file(path: Path) -> None:
    """Bring a file, and its name, to the disk: it must survive a power cut."""
    for target in (path, path.parent):
        handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json_atomically(path: Path, value: Any, *, durable: bool = False) -> Path:
    """Write a value as indented JSON, atomically; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    return write_bytes_atomically(path, (text + "\n").encode(), durable=durable)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    ArtifactNotFoundError
        When it is not there.
    ArtifactCorruptError
        When it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(f"{path} is not there") from error
    except ValueError as error:
        raise ArtifactCorruptError(f"{path} is not JSON: {error}", hint="run the stage that makes it again") from error


def dump_model(model: Any) -> bytes:
    """Serialize a scikit-learn estimator with skops, byte for byte the same each time.

    skops names members by memory address and stamps them with the time of day; both are replaced, addresses by the
    order in which the schema mentions them.

    Parameters
    ----------
    model : estimator
        A fitted scikit-learn estimator.

    Returns
    -------
    bytes
        A zip archive that ``skops.io.loads`` reads.
    """
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    numbers: dict[str, int] = {}
    files: dict[str, str] = {}
    counter = itertools.count(1)

    def renumber(node: Any) -> Any:
        if isinstance(node, list):
            return [renumber(item) for item in node]
        if not isinstance(node, dict):
            return node
        address = str(node.get("__id__"))
        # Only a CachedNode refers to an earlier address. Any other address is merely where a value happened to be, and
        # two values that were there one after the other share it by chance.
        if node.get("__loader__") != "CachedNode" or address not in numbers:
            numbers[address] = next(counter)
        result: dict[str, Any] = {"__id__": numbers[address]} if "__id__" in node else {}
        for key, value in node.items():
            if key == "file" and isinstance(value, str):
                suffix = value.partition(".")[2]
                result[key] = files.setdefault(value, f"{len(files) + 1}.{suffix}")
            elif key != "__id__":
                result[key] = renumber(value)
        return result

    schema = renumber(json.loads(members.pop("schema.json")))
    renamed = {files[name]: data for name, data in members.items() if name in files}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in sorted([*renamed.items(), ("schema.json", json.dumps(schema).encode())]):
            target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def load_model(path: Path) -> Any:
    """Load a skops file against our allow-list.

    Parameters
    ----------
    path : Path
        The file; check its hash first.

    Returns
    -------
    estimator

    Raises
    ------
    ModelRefusedError
        When the file holds a type that neither skops nor :data:`TRUSTED_TYPES` trusts; lists all of them.
    """
    import skops.io

    try:
        _check_types(skops.io.get_untrusted_types(file=path), str(path))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtifactCorruptError(f"{path} is not a skops file: {error}") from error
    return skops.io.load(path, trusted=list(TRUSTED_TYPES))


def _check_types(types: list[str], what: str) -> None:
    """Refuse types that neither skops nor we trust."""
    unknown = sorted(set(types) - set(TRUSTED_TYPES))
    if unknown:
        raise ModelRefusedError(
            f"{what} holds types that are not trusted: {', '.join(unknown)}",
            hint="models are built from scikit-learn's own estimators; a type that is safe to load can be added to "
            "sundial.formats.TRUSTED_TYPES",
        )


def write_value(folder: Path, name: str, value: Any) -> Path:
    """Write a value in the format that its type has.

    Parameters
    ----------
    folder : Path
        Where.
    name : str
        File name without a suffix.
    value : DataFrame, dict, list or estimator
        Becomes ``.parquet``, ``.json`` or ``.skops``.

    Returns
    -------
    Path
        The file. A file of the same name in another format is removed.

    Raises
    ------
    SundialError
        When the type has no format, or a frame has a named index: an index is not saved.
    ModelRefusedError
        When an estimator could not be loaded again; see :func:`load_model`.
    """
    import pandas as pd  # here, since what only hashes and reads JSON must be quick to import

    if isinstance(value, pd.DataFrame):
        if any(level is not None for level in value.index.names):
            raise SundialError(
                f"{name!r} has the index {', '.join(map(str, value.index.names))}, and an index is not saved",
                hint="call reset_index() to make columns of it, or reset_index(drop=True) to drop it",
            )
        buffer = io.BytesIO()
        value.to_parquet(buffer, index=False)
        path = write_bytes_atomically(folder / f"{name}.parquet", buffer.getvalue())
    elif isinstance(value, dict | list):
        path = write_json_atomically(folder / f"{name}.json", value)
    elif hasattr(value, "get_params") and hasattr(value, "fit"):
        import skops.io

        data = dump_model(value)
        _check_types(skops.io.get_untrusted_types(data=data), repr(name))  # now, and not when the next stage loads it
        path = write_bytes_atomically(folder / f"{name}.skops", data)
    else:
        raise SundialError(
            f"{name!r} is a {type(value).__name__}, which has no format",
            hint="save a DataFrame, a dict, a list, or a fitted scikit-learn estimator",
        )
    for suffix in SUFFIXES:
        if suffix != path.suffix:
            path.with_suffix(suffix).unlink(missing_ok=True)
    return path


def read_value(path: Path) -> Any:
    """Read what :func:`write_value` wrote.

    Raises
    ------
    ArtifactNotFoundError
        When it is not there.
    ArtifactCorruptError
        When it cannot be read as what its suffix says.
    """
    if not path.exists():
        raise ArtifactNotFoundError(f"{path} is not there", hint="run the stage that makes it")
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix == ".skops":
        return load_model(path)
    try:
        import pandas as pd

        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ArtifactCorruptError(f"{path} is not Parquet: {error}", hint="run the stage again") from error
