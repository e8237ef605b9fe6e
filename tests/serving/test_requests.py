"""Real HTTP against a real model server: answers, refusals, pages."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from folder_source import sample_rows

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}
HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(shared: Any) -> Iterator[httpx.Client]:
    """Give a client of the server that this module shares."""
    with httpx.Client(base_url=shared.url, trust_env=False, timeout=10) as client:
        yield client


def post(client: httpx.Client, document: Any, **options: Any) -> httpx.Response:
    """Ask for predictions."""
    return client.post("/invocations", json=document, **options)


def test_an_answer_has_score_decision_id_and_version(client: httpx.Client) -> None:
    """Each row gets a score, a decision at the threshold, the caller's id; the answer says which version made it."""
    answer = post(client, {"dataframe_records": [ROW] * 2, "params": {"request_ids": ["r1", "r2"]}})

    assert answer.status_code == 200
    found = answer.json()
    assert {"predictions", "decisions", "request_ids", "model_version"} == set(found)
    assert ["r1", "r2"] == found["request_ids"]
    assert "1" == found["model_version"]
    assert [score >= 0.4 for score in found["predictions"]] == found["decisions"]


def test_forms_are_answered_alike(client: httpx.Client) -> None:
    """The same rows get the same scores in every form; nobody's ids are needed."""
    frame = sample_rows(5).dropna()
    records = frame.to_dict("records")
    split = frame.to_dict("split")
    forms = [
        {"dataframe_records": records},
        {"dataframe_split": split},
        {"instances": records},
        {"instances": split["data"]},
        {"inputs": frame.to_dict("list")},
    ]

    answers = [post(client, form).json() for form in forms]

    assert len(answers[0]["predictions"]) == len(frame)
    assert [answers[0]["predictions"]] * 5 == [answer["predictions"] for answer in answers]
    assert len({request_id for answer in answers for request_id in answer["request_ids"]}) == 5 * len(frame)


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns about type hints of its own
def test_mlflow_clients_are_answered(shared: Any) -> None:
    """MLflow's own client sends a frame with a missing number and reads the predictions."""
    pytest.importorskip("requests")
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    host, _, port = shared.url.removeprefix("http://").partition(":")
    mlflow = ScoringServerClient(host, port)
    frame = sample_rows(20)
    assert frame["distance"].isna().any()

    mlflow.wait_server_ready(timeout=5)
    predictions = mlflow.invoke(frame).get_predictions()

    assert predictions.shape == (20, 1)
    assert predictions[0].between(0, 1).all()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", HEADERS, 400),
        (b"", HEADERS, 400),
        (b"[" * 50_000, HEADERS, 400),
        (b'{"instances": [[NaN, 1, true, "AA"]]}', HEADERS, 200),
        (b'{"instances": [[Infinity, 1, true, "AA"]]}', HEADERS, 422),
        (b'{"instances": [[1, NaN, true, "AA"]]}', HEADERS, 422),
        (b'{"instances": [["x", 1, true, "AA"]]}', HEADERS, 422),
        (b'{"instances": [[1]]}', HEADERS, 422),
        (b'{"instances": []}', HEADERS, 200),
        (b'{"instances": ' + b"[[1]" + b",[1]" * 10_000 + b"]}", HEADERS, 413),
        (b"{}", {"content-type": "text/csv"}, 415),
        (b"{}", {"content-type": "application/json; charset=latin-1"}, 415),
        (b"{}", {"content-type": "application/json; format=pandas-split"}, 415),
        (b"{}", {}, 415),
        (b'{"instances": [[1, 1, true, "AA"]]}', {"content-type": 'application/json; charset="UTF-8"'}, 200),
    ],
)
def test_bad_requests_have_a_status_and_a_reason(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Each kind of bad request has its status, and an error, a column and a hint as JSON."""
    answer = client.post("/invocations", content=body, headers=headers)

    assert status == answer.status_code
    if status != 200:
        assert {"error", "column", "hint"} == set(answer.json())
        assert answer.json()["hint"]


def test_a_wrong_column_is_named(client: httpx.Client) -> None:
    """The caller reads which column is wrong, why, and what was meant."""
    wrong = {**{name: value for name, value in ROW.items() if name != "minute"}, "minuet": 5}

    found = post(client, {"dataframe_records": [wrong]}).json()

    assert {"error": "unknown column 'minuet'", "column": "minuet", "hint": "Did you mean 'minute'?"} == found


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_is_answered(client: httpx.Client, method: str) -> None:
    """Other methods are told which one to use."""
    answer = client.request(method, "/invocations")

    assert (405, "POST") == (answer.status_code, answer.headers["allow"])
    assert client.post("/health").status_code == 405


@pytest.mark.parametrize("told", [True, False])
def test_a_huge_body_is_refused_early(client: httpx.Client, told: bool) -> None:
    """A body over the limit is refused, whether its length was told or it comes in chunks; the server goes on."""
    chunk = b"x" * (1 << 20)
    sent = []

    def chunks() -> Iterator[bytes]:
        for number in range(64):
            sent.append(number)
            yield chunk

    headers = {**HEADERS, **({"content-length": str(64 << 20)} if told else {})}
    try:
        answer = client.post("/invocations", content=chunks(), headers=headers)
        assert answer.status_code == 413
    except httpx.WriteError:  # the server closed while we were still sending
        pass

    assert len(sent) < 64
    assert post(client, {"dataframe_records": [ROW]}).status_code == 200


def test_half_a_request_costs_nothing(shared: Any, client: httpx.Client) -> None:
    """A caller who goes away in the middle of a body leaves no trace but a count."""
    host, _, port = shared.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        raw.sendall(b'Content-Length: 100\r\n\r\n{"instances"')
    time.sleep(0.2)

    assert post(client, {"dataframe_records": [ROW]}).status_code == 200
    assert 'sundial_requests_total{status="499"}' in client.get("/metrics").text


def test_a_repeated_id_gets_the_same_bytes(client: httpx.Client) -> None:
    """Asking again under the same id, even with other values, gives the first answer."""
    first = post(client, {"dataframe_records": [ROW], "request_ids": ["same"]}).json()
    again = post(client, {"dataframe_records": [{**ROW, "minute": 1}], "request_ids": ["same"]}).json()

    assert ["1"] == again.pop("model_versions")
    assert first == again


def test_metrics_are_prometheus_text(client: httpx.Client) -> None:
    """Prometheus' own parser reads the metrics, and they add up."""
    parser = pytest.importorskip("prometheus_client.parser")
    before = _samples(parser, client)

    for _ in range(3):
        post(client, {"dataframe_records": [ROW] * 2})
    post(client, {})

    after = _samples(parser, client)

    def grown(*key: Any) -> float:
        return float(after.get(key, 0) - before.get(key, 0))

    assert grown("sundial_requests_total", ("status", "200")) == 3
    assert grown("sundial_requests_total", ("status", "400")) == 1
    assert grown("sundial_predictions_total") == 6
    assert grown("sundial_log_rows_total") == 6
    assert grown("sundial_request_seconds_count") == 3
    assert grown("sundial_request_seconds_bucket", ("le", "+Inf")) == 3
    assert after["sundial_model_version",] == 1


def _samples(parser: Any, client: httpx.Client) -> dict[Any, float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = parser.text_string_to_metric_families(answer.text)
    return {(sample.name, *sample.labels.items()): sample.value for family in families for sample in family.samples}


def test_health_and_version_say_who_answers(client: httpx.Client) -> None:
    """Health has the version, the log and the shadow; version has what the model takes."""
    health, version = client.get("/health"), client.get("/version").json()

    assert health.status_code == 200
    assert ("ok", "1", "demo") == tuple(health.json()[name] for name in ("status", "version", "pipeline"))
    assert health.json()["log"]["position"].startswith("0:0:")
    assert health.json()["shadow"]["version"] is None
    assert ("1", 0.4) == (version["version"], version["threshold"])
    assert list(ROW) == list(version["features"])


def test_an_unknown_page_says_what_there_is(client: httpx.Client) -> None:
    """A wrong path is answered with the right ones."""
    answer = client.get("/predict")

    assert answer.status_code == 404
    assert "/invocations" in answer.json()["hint"]


def test_numbers_survive_the_way_to_the_model(client: httpx.Client) -> None:
    """A score is written so that reading it gives the same bits."""
    found = post(client, {"dataframe_records": sample_rows(50).dropna().to_dict("records")})

    scores = found.json()["predictions"]
    assert all(math.isfinite(score) for score in scores)
    assert json.dumps(scores).replace(" ", "") in found.text
