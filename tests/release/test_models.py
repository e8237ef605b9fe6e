"""Servable folders: what goes in comes out, and anything else is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import FunctionTransformer

from sundial.errors import ArtifactCorruptError, ModelRefusedError, RequestError
from sundial.formats import hash_file, read_json, read_value, write_bytes_atomically, write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.models import ServableModel, build_model_folder, load_servable
from sundial.runs import Run


@pytest.fixture
def folder(run: Run, pipeline: Pipeline, tmp_path: Path) -> Path:
    """Give a servable folder."""
    return build_model_folder(run, tmp_path / "built", pipeline=pipeline)


@pytest.fixture
def model(folder: Path) -> ServableModel:
    """Give the model of that folder."""
    return load_servable(folder, expected_sha256=hash_file(folder / "model.skops"), version=3)


def one(**changes: Any) -> pd.DataFrame:
    """One valid request, with changes."""
    return pd.DataFrame([{"maker": "acme", "price": 9.5, "parts": 30, "imported": True, **changes}], dtype=object)


def test_round_trip(model: ServableModel, run: Run, fitted: Callable[[int], Any]) -> None:
    """A loaded model scores and decides exactly as the estimator that was fitted."""
    frame = read_value(run.verify_output("05_build_evaluation_sets", "evaluation_set"))
    expected = fitted(0).predict_proba(frame[list(model.features)])[:, 1]
    assert np.array_equal(expected, model.score(frame))
    assert np.array_equal(expected >= 0.4, model.decide(expected))
    assert ("toy", 3, 0.4) == (model.name, model.version, model.threshold)


def test_same_outputs_same_folder(run: Run, pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    """The folder is named by its content: building again gives the same one, and leaves nothing else behind."""
    assert folder == build_model_folder(run, tmp_path / "built", pipeline=pipeline)
    assert [folder] == list((tmp_path / "built").iterdir())
    assert folder.name == hash_file(folder / "model.json")[:16]


def test_card_tells_how_to_use_the_model(folder: Path) -> None:
    """The card names features with kinds, threshold, label, entity, origin, versions and check rows."""
    card = read_json(folder / "model.json")
    assert {"dtype": "float64", "kind": "number"} == card["features"]["price"]
    assert ("broken", "toy_id", 0.4) == (card["label"], card["entity"], card["threshold"])
    assert {"scikit-learn", "numpy"} <= card["versions"].keys()
    assert len(card["check"]["rows"]) == len(card["check"]["scores"]) == 32
    assert any(None in row for row in card["check"]["rows"]), "missing values should be checked too"


@pytest.mark.parametrize("name", ["model.skops", "model.json"])
def test_changed_file_is_refused(folder: Path, name: str) -> None:
    """A byte changed in the model, or in the card with its threshold, is noticed by its hash."""
    hashes = {
        "expected_sha256": hash_file(folder / "model.skops"),
        "expected_card_sha256": hash_file(folder / "model.json"),
    }
    write_bytes_atomically(folder / name, (folder / name).read_bytes() + b" ")
    with pytest.raises(ArtifactCorruptError, match=f"{name} is not the file that was registered"):
        load_servable(folder, **hashes)


def test_missing_file_is_refused(folder: Path) -> None:
    """A folder without its model is said to lack it."""
    (folder / "model.skops").unlink()
    with pytest.raises(ArtifactCorruptError, match="is not there"):
        load_servable(folder, expected_sha256="0" * 64)


def test_no_hash_no_load(folder: Path) -> None:
    """Without a known hash nothing is loaded, since the allow-list trusts only files that we wrote."""
    with pytest.raises(ArtifactCorruptError):
        load_servable(folder, expected_sha256="")


def test_untrusted_types_are_listed(folder: Path) -> None:
    """A file with types that nobody trusts is refused by name, although its hash is right."""
    import skops.io

    skops.io.dump(FunctionTransformer(subprocess.run), folder / "model.skops")
    with pytest.raises(ModelRefusedError, match=r"subprocess\.run"):
        load_servable(folder, expected_sha256=hash_file(folder / "model.skops"))


def test_other_scores_are_refused(folder: Path) -> None:
    """A model whose check rows score differently than when it was made is refused, and says by how much."""
    card = read_json(folder / "model.json")
    card["check"]["scores"][5] += 1e-9
    card["versions"]["numpy"] = "1.0"
    write_json_atomically(folder / "model.json", card)
    with pytest.raises(ModelRefusedError, match=r"1 of 32 check rows differ, by up to 1e-09\nHint: numpy 1.0 then"):
        load_servable(folder, expected_sha256=hash_file(folder / "model.skops"))


@pytest.mark.parametrize("content", ["{}", '{"check": 1}'])
def test_broken_card_is_refused(folder: Path, content: str) -> None:
    """A card that lacks what is needed is called corrupt, with no traceback of ours."""
    (folder / "model.json").write_text(content)
    with pytest.raises(ArtifactCorruptError, match="is not a model card"):
        load_servable(folder, expected_sha256=hash_file(folder / "model.skops"))


def test_regressor_is_refused(make_run: Callable[..., Run], pipeline: Pipeline, tmp_path: Path) -> None:
    """What gives no probability cannot be served."""
    run = make_run(model=LinearRegression().fit([[0.0], [1.0]], [0, 1]))
    with pytest.raises(ModelRefusedError, match="LinearRegression does not give the probability"):
        build_model_folder(run, tmp_path, pipeline=pipeline)


def test_changed_output_is_not_built(run: Run, pipeline: Pipeline, tmp_path: Path) -> None:
    """A policy edited by hand after its stage never gets into a servable folder."""
    write_json_atomically(run.stage_folder("08_evaluate_business") / "outputs" / "policy.json", {"threshold": 0.0})
    with pytest.raises(ArtifactCorruptError):
        build_model_folder(run, tmp_path, pipeline=pipeline)


def test_columns_are_reordered_and_cast(model: ServableModel) -> None:
    """Order, extra columns and object dtypes of a request do not change a score."""
    expected = model.score(one())
    shuffled = one(request_id="r1")[["imported", "request_id", "parts", "price", "maker"]]
    assert expected == model.score(shuffled)
    assert expected == model.score(one(parts=30.0))
    assert list(model.features.values()) == [str(dtype) for dtype in model.prepare(shuffled).dtypes]


def test_missing_values(model: ServableModel) -> None:
    """A missing number or text is scored; an empty table gives no scores."""
    assert np.isfinite(model.score(one(price=None))).all()
    assert np.isfinite(model.score(pd.concat([one(maker=None), one()]))).all()
    assert (0,) == model.score(one().iloc[:0]).shape


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": "cheap"}, "column 'price', row 0: 'cheap' is not a number"),
        ({"price": "9.5"}, "column 'price', row 0: '9.5' is not a number"),
        ({"price": True}, "column 'price', row 0: True is not a number"),
        ({"price": float("inf")}, "column 'price', row 0: inf is infinite"),
        ({"price": [1]}, r"column 'price', row 0: \[1\] is not a number"),
        ({"price": 10**400}, "column 'price'"),
        ({"parts": None}, "column 'parts', row 0: it has no value"),
        ({"parts": 1.5}, "column 'parts', row 0: 1.5 is not a whole number"),
        ({"parts": 2**70}, "column 'parts'"),
        ({"imported": None}, "column 'imported', row 0: it has no value"),
        ({"imported": "yes"}, "column 'imported', row 0: 'yes' is not true or false"),
        ({"maker": 7}, "column 'maker', row 0: 7 is not text"),
        ({"maker": {"a": 1}}, "column 'maker', row 0: {'a': 1} is not text"),
    ],
)
def test_bad_values_name_column_and_row(model: ServableModel, changes: dict[str, Any], reason: str) -> None:
    """A value of another kind is refused with column, row and reason; it is never guessed at."""
    with pytest.raises(RequestError, match=reason) as caught:
        model.score(one(**changes))
    assert next(iter(changes)) == caught.value.column
    assert 422 == caught.value.status


def test_missing_column_has_a_nearest_name(model: ServableModel) -> None:
    """A misspelt column is named with what was probably meant."""
    with pytest.raises(RequestError, match=r"column 'price' is missing\nHint: Did you mean 'prize'"):
        model.score(one().rename(columns={"price": "prize"}))


def test_repeated_column(model: ServableModel) -> None:
    """A column that stands twice is refused, since nobody knows which is meant."""
    with pytest.raises(RequestError, match="column 'parts' stands twice"):
        model.score(pd.concat([one(), one()[["parts"]]], axis="columns"))


def test_import_is_light() -> None:
    """Importing models and registry loads neither MLflow nor scikit-learn: servers and notebooks start with them."""
    code = "import sys, sundial.release.registry as r; sys.exit(any(n in sys.modules for n in ('mlflow', 'sklearn')))"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
