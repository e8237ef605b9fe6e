"""Servable models: a folder with the model, a card that says how to use it, and rows that prove it still answers alike.

<first 16 digits of the card's SHA-256>/
    model.skops    the fitted estimator
    model.json     the card: features and their dtypes, threshold, who made it from what, versions, SHA-256 of
                   model.skops, and check rows with the scores they had when it was made

The card holds the hash of the model and the folder is named by the hash of the card, so one name stands for both.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.errors import ArtifactCorruptError, DataError, ModelRefusedError
from sundial.formats import hash_file, load_model, read_json, read_value, write_json_atomically
from sundial.pipeline import Pipeline, load_pipeline
from sundial.release.columns import cast_column, kind_of, pick_columns, refuse_infinite
from sundial.runs import Run

MODEL_FILE = "model.skops"
CARD_FILE = "model.json"
SCHEMA = 1
CHECK_ROWS = 32
# The same bytes give the same sums on any machine of one kind; more than this is another model, or another library.
LARGEST_DIFFERENCE = 1e-12


@dataclass(frozen=True, eq=False)
class ServableModel:
    """A loaded model and all that is needed to answer with it; immutable, safe to share between threads.

    Attributes
    ----------
    name : str
        Pipeline, which is the model's name in the registry.
    version : int or None
        Version in the registry; None when it was loaded from a folder.
    model : estimator
        Takes a DataFrame of `features`, in that order.
    card : dict
        All of model.json.
    threshold : float
        Scores at or above it become alerts.
    features : dict of str to str
        Column to dtype, in the model's order.
    sha256 : str
        Of model.skops.
    """

    name: str
    version: int | None
    model: Any = field(repr=False)
    card: Mapping[str, Any] = field(repr=False)
    threshold: float
    features: Mapping[str, str] = field(repr=False)
    sha256: str

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each column: number, integer, boolean, text, category or time."""
        return {name: kind_of(dtype) for name, dtype in self.features.items()}

    def prepare(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Put a table into the shape that the model was fitted on.

        Parameters
        ----------
        frame : DataFrame of n rows
            With all features, in any order; other columns are left out.

        Returns
        -------
        DataFrame of n rows
            The features in the model's order and dtypes; the frame itself when it is so already.

        Raises
        ------
        RequestError
            For a missing column, or a value that is not what the card says; names column and row.
        """
        picked = frame
        if list(frame.columns) != list(self.features):
            picked = pick_columns(frame, self.features)
        elif [str(dtype) for dtype in frame.dtypes] == list(self.features.values()):
            # a server's frames are of this shape already, and are prepared for every batch
            for name, dtype in self.features.items():
                if kind_of(dtype) == "number":
                    refuse_infinite(frame[name])
            return frame
        columns = {name: cast_column(picked[name], dtype) for name, dtype in self.features.items()}
        return pd.DataFrame(columns, index=range(len(frame)))

    def score(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Compute the probability of the label.

        Parameters
        ----------
        frame : DataFrame of n rows
            See :meth:`prepare`.

        Returns
        -------
        float64 array of shape (n,)

        Raises
        ------
        RequestError
            When the table is not what the model takes.
        """
        prepared = self.prepare(frame)
        if prepared.empty:  # scikit-learn refuses to predict nothing
            return np.empty(0)
        return _positive(self.model, prepared)

    def decide(self, scores: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Turn scores into decisions: alert at the threshold and above; an undefined score is no alert."""
        return np.asarray(scores, dtype=np.float64) >= self.threshold

    def check_rows(self) -> tuple[pd.DataFrame, npt.NDArray[np.float64]]:
        """Give the card's sample rows, and the scores that they had when the model was made."""
        check = self.card["check"]
        frame = pd.DataFrame(check["rows"], columns=check["columns"], dtype=object)
        return frame, np.array(check["scores"], dtype=np.float64)


def build_model_folder(run: Run, folder: Path, *, pipeline: Pipeline | None = None) -> Path:
    """Gather the model of a run, its card and its check rows into a servable folder.

    Parameters
    ----------
    run : Run
        With the outputs of stages 05, 06 and 08; each is checked against its recorded hash.
    folder : Path
        Where the servable folder is made.
    pipeline : Pipeline, optional
        Read by the run's pipeline name by default.

    Returns
    -------
    Path
        ``folder/<16 digits>``, named by content: made again from the same outputs it is the same folder.

    Raises
    ------
    ArtifactNotFoundError, ArtifactCorruptError
        When an output is not there, or was changed.
    DataError
        When there is no row to check with.
    ModelRefusedError
        When the model is not a classifier of two classes, or holds types that are not trusted.
    """
    pipeline = pipeline or load_pipeline(run.pipeline)
    source = run.verify_output("06_train_model", "model")
    trained = read_value(run.verify_output("06_train_model", "model_card"))
    policy = read_value(run.verify_output("08_evaluate_business", "policy"))
    rows: pd.DataFrame = read_value(run.verify_output("05_build_evaluation_sets", "evaluation_set"))
    if rows.empty:
        raise DataError(f"the evaluation set of {run.name} is empty, so the model cannot be checked when it is loaded")
    features = {str(name): str(dtype) for name, dtype in trained["features"].items()}
    card: dict[str, Any] = {
        "schema": SCHEMA,
        "pipeline": pipeline.name,
        "run": run.name,
        "as_of": run.as_of.isoformat(),
        "entity": pipeline.entity,
        "event_time": pipeline.event_time,
        "label": pipeline.label.column,
        "threshold": float(policy["threshold"]),
        "policy": policy,
        "features": {name: {"dtype": dtype, "kind": kind_of(dtype)} for name, dtype in features.items()},
        "training": {name: value for name, value in trained.items() if name not in ("features", "label")},
        "versions": _versions(),
        "sha256": hash_file(source),
    }
    model = _as_servable(load_model(source), card)
    # spread over the set, which is in order of time or of segment: the first rows would be all alike
    sample = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, CHECK_ROWS).astype(int))]
    prepared = model.prepare(sample)
    scores = _positive(model.model, prepared)
    values = [[_plain(value) for value in row] for row in prepared.astype(object).itertuples(index=False)]
    card["check"] = {"columns": list(features), "rows": values, "scores": [float(score) for score in scores]}

    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
    try:
        shutil.copyfile(source, temporary / MODEL_FILE)
        target = folder / hash_file(write_json_atomically(temporary / CARD_FILE, card))[:16]
        if not (target / CARD_FILE).is_file():
            temporary.chmod(0o755)  # mkdtemp's 0700 would hide it from a model server of another user
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def load_servable(
    folder: Path, *, expected_sha256: str, expected_card_sha256: str = "", version: int | None = None
) -> ServableModel:
    """Load a servable folder, and refuse it unless it is what was registered and still answers alike.

    Parameters
    ----------
    folder : Path
        Made by :func:`build_model_folder`.
    expected_sha256 : str
        Of model.skops, from the registry or from a run; the types on our allow-list are safe for such files only.
    expected_card_sha256 : str
        Of model.json, which holds the threshold; empty when it is not known.
    version : int, optional
        Version in the registry, to be carried along.

    Returns
    -------
    ServableModel

    Raises
    ------
    ArtifactCorruptError
        When a file is missing, cannot be read, or is not the one expected.
    ModelRefusedError
        When the file holds types that are not trusted (lists them), is not a classifier of two classes, or scores
        its check rows differently than when it was made.
    """
    for name, expected in ((MODEL_FILE, expected_sha256), (CARD_FILE, expected_card_sha256)):
        path = folder / name
        if not path.is_file():
            raise ArtifactCorruptError(f"{path} is not there", hint="register the model again from its run")
        if (expected or name == MODEL_FILE) and hash_file(path) != expected:
            raise ArtifactCorruptError(
                f"{path} is not the file that was registered: its SHA-256 differs",
                hint="roll back to another version, and find out who changed the file",
            )
    card = read_json(folder / CARD_FILE)
    try:
        model = _as_servable(load_model(folder / MODEL_FILE), card, version)
        frame, expected_scores = model.check_rows()
        scores = model.score(frame)
    except (KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelRefusedError):
            raise
        raise ArtifactCorruptError(f"{folder / CARD_FILE} is not a model card: {error!r}") from error
    differences = np.abs(scores - expected_scores)
    if not (differences <= LARGEST_DIFFERENCE).all():  # so written that NaN is refused too
        made, here = card.get("versions", {}), _versions()
        changed = [
            f"{name} {made.get(name, 'unknown')} then, {here[name]} now"
            for name in here
            if made.get(name) != here[name]
        ]
        raise ModelRefusedError(
            f"{folder} gives other scores than when it was made: {int((differences > LARGEST_DIFFERENCE).sum())} of "
            f"{len(scores)} check rows differ, by up to {np.max(differences):.3g}",
            hint="; ".join(changed) or "the library versions are the same: train the model again",
        )
    return model


def _as_servable(model: Any, card: Mapping[str, Any], version: int | None = None) -> ServableModel:
    """Wrap an estimator that can answer yes or no; refuse any other."""
    classes = [bool(item) for item in getattr(model, "classes_", ())]
    if not hasattr(model, "predict_proba") or classes != [False, True]:
        raise ModelRefusedError(
            f"a {type(model).__name__} does not give the probability of a label that is 0 or 1",
            hint="fit a scikit-learn classifier with predict_proba on a label of 0 and 1",
        )
    return ServableModel(
        name=card["pipeline"],
        version=version,
        model=model,
        card=card,
        threshold=card["threshold"],
        features={name: feature["dtype"] for name, feature in card["features"].items()},
        sha256=card["sha256"],
    )


def _positive(model: Any, prepared: pd.DataFrame) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(model.predict_proba(prepared)[:, 1], dtype=np.float64)


def _plain(value: Any) -> Any:
    """Turn a cell into what JSON holds without losing a bit; missing becomes null."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _versions() -> dict[str, str]:
    import sklearn
    import skops

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "scikit-learn": sklearn.__version__,
        "skops": skops.__version__,
    }
