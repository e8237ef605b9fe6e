"""The server's OpenAPI document, made from what the model in production takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sundial.serving.payloads import MAX_ROWS
from sundial.serving.schema import LARGEST_INTEGER, LONGEST_ID, Kind, Schema

WHOLE = {"type": "integer", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER}
TYPES: dict[Kind, dict[str, Any]] = {
    "number": {"type": ["number", "null"], "minimum": -1.7e308, "maximum": 1.7e308},
    "integer": WHOLE,
    "boolean": {"type": "boolean"},
    "text": {"type": ["string", "null"]},
    "category": {"type": ["string", "null"]},
    "time": {"type": ["string", "null"], "description": "ISO 8601, without an offset"},
}
ID = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": LONGEST_ID}, WHOLE]}
REFUSALS = {
    400: "the body is not JSON, or not one of the forms",
    401: "the token is missing or wrong",
    405: "only POST is answered",
    408: "the body did not arrive in time",
    413: "the body is too large, or has too many rows",
    415: "the content type is not application/json",
    422: "the rows are not what the model takes; says the column",
    503: "no model is in production yet, too much waits, or the log cannot be written; says when to come back",
}


def describe(pipeline: str, schema: Schema | None, *, guarded: bool = False) -> dict[str, Any]:
    """Describe the server.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    schema : Schema or None
        What the model in production takes; None while there is none.
    guarded : bool
        Whether callers must send a token.

    Returns
    -------
    dict
        OpenAPI 3.1.
    """
    from sundial import __version__

    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"Sundial: {pipeline}", "version": __version__},
        "paths": {
            "/invocations": {"post": _invocations(schema)},
            "/ping": {"get": _page("Whether there is a model to answer with", "text/plain", waits=True)},
            "/health": {"get": _page("How the server is", "application/json", waits=True)},
            "/version": {"get": _page("Which versions answer, and how", "application/json")},
            "/metrics": {"get": _page("Metrics, as Prometheus reads them", "text/plain")},
        },
        "components": {
            "schemas": {
                "Row": _row(schema),
                "Answer": {
                    "type": "object",
                    "required": ["predictions", "decisions", "request_ids", "model_version"],
                    "properties": {
                        "predictions": {"type": "array", "items": {"type": "number"}},
                        "decisions": {"type": "array", "items": {"type": "boolean"}},
                        "request_ids": {"type": "array", "items": {"type": "string"}},
                        "model_version": {"type": "string"},
                        "model_versions": {"type": "array", "items": {"type": "string"}},
                    },
                    "additionalProperties": False,
                },
                "Refusal": {
                    "type": "object",
                    "required": ["error", "column", "hint"],
                    "properties": {
                        "error": {"type": "string"},
                        "column": {"type": ["string", "null"]},
                        "hint": {"type": "string"},
                    },
                    "additionalProperties": False,
                },
            }
        },
    }
    if guarded:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/ping"]["get"]["security"] = []
    return document


def _row(schema: Schema | None) -> dict[str, Any]:
    """Describe a row by name; what a shadow takes and what says whom it is about may be left out."""
    if schema is None:
        return {"type": "object"}
    aside: Mapping[str, Any] = {
        "request_id": ID,
        schema.entity: {"anyOf": [{"type": ["string", "null"]}, WHOLE]},
        schema.event_time: TYPES["time"],
    }
    features = {name: TYPES[kind] for name, kind in schema.features.items()}
    extras = {name: TYPES[kind] for name, kind in schema.extras.items()}
    return {
        "type": "object",
        "required": list(features),
        "properties": {**aside, **extras, **features},
        "additionalProperties": False,
    }


def _invocations(schema: Schema | None) -> dict[str, Any]:
    """Describe the forms of rows that MLflow's scoring server takes, and what may stand beside them."""
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "maxItems": MAX_ROWS}
    values: dict[str, Any] = {"type": "array"}
    if schema is not None:
        kinds = [TYPES[kind] for kind in schema.features.values()]
        values |= {"prefixItems": kinds, "minItems": len(kinds), "maxItems": len(kinds), "items": False}
    table = {"type": "array", "items": values, "maxItems": MAX_ROWS}
    forms: dict[str, Any] = {
        "dataframe_records": rows,
        "instances": {"anyOf": [rows, table]},
        "dataframe_split": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "columns": {"const": list(schema.features)} if schema else {"type": "array"},
                "data": table,
                "index": {"type": "array"},
            },
            "additionalProperties": False,
        },
        "inputs": {"anyOf": [{"$ref": "#/components/schemas/Row"}, rows]},
    }
    beside = {
        "request_ids": {"type": "array", "items": ID},
        "entities": {"type": "array", "items": {"anyOf": [{"type": ["string", "null"]}, WHOLE]}},
        "event_times": {"type": "array", "items": TYPES["time"]},
    }
    params = {"type": ["object", "null"], "properties": beside, "additionalProperties": False}
    body = {
        "anyOf": [
            {
                "type": "object",
                "required": [form],
                "properties": {form: shape, **beside, "params": params},
                "additionalProperties": False,
            }
            for form, shape in forms.items()
        ]
    }
    return {
        "operationId": "invocations",
        "summary": "Score rows with the model in production",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _response("Scores, decisions, ids, and the version that answered", "Answer"),
            **{str(status): _response(text, "Refusal") for status, text in REFUSALS.items()},
        },
    }


def _response(text: str, name: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


def _page(summary: str, media: str, *, waits: bool = False) -> dict[str, Any]:
    """Describe a page; one that waits says 503, as JSON, before there is a model."""
    content: dict[str, Any] = {media: {}}
    responses: dict[str, Any] = {
        "200": {"description": summary, "content": content},
        "401": _response("the token is missing or wrong", "Refusal"),
        "405": _response("only GET is answered", "Refusal"),
    }
    if waits:
        responses["503"] = {"description": "there is no model yet", "content": {"application/json": {}}}
    return {"summary": summary, "responses": responses}
