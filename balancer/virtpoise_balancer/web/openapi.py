"""The API's description, made from its operations: OpenAPI 3.1, whose schemas are JSON Schema as pydantic writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from virtpoise_balancer import __version__
from virtpoise_balancer.web.operations import Error, Operation

_ORDER_ERRORS = {
    "400": "The body is not what was expected.",
    "401": "A token is needed, or it is wrong.",
    "403": "The order comes from another site's page or not over TLS, or no orders are possible.",
    "404": "There is no such host.",
    "409": "It cannot be carried out now; nothing was changed.",
    "413": "The body is too long.",
    "415": "The body is not application/json.",
    "502": "Prometheus could not be queried; nothing was changed.",
}
_Schemas = Mapping[tuple[Any, JsonSchemaMode], dict[str, Any]]


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document of the operations."""
    every = tuple(operations)
    wanted: list[tuple[Any, JsonSchemaMode]] = [(Error, "serialization")]
    wanted += [(operation.answer, "serialization") for operation in every]
    wanted += [(operation.body, "validation") for operation in every if operation.body is not None]
    schemas, definitions = TypeAdapter.json_schemas(
        [(kind, mode, TypeAdapter(kind)) for kind, mode in dict.fromkeys(wanted)],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in every:
        paths.setdefault(operation.public_path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "virtpoise",
            "version": __version__,
            "description": "What the balancer observes, plans and does. Everyone who can connect can read; orders "
            "need a token.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    answers = {"200": _content("The answer.", schemas[operation.answer, "serialization"])}
    errors = _ORDER_ERRORS if operation.body is not None else _reading_errors(operation)
    answers |= {status: _content(text, schemas[Error, "serialization"]) for status, text in errors.items()}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.place == "path",
                "description": parameter.text,
                "schema": dict(parameter.schema),
            }
            for parameter in operation.parameters
        ],
        "responses": answers,
    }
    if operation.body is not None:
        described["security"] = [{"token": []}]
        body = {"application/json": {"schema": schemas[operation.body, "validation"]}}
        described["requestBody"] = {"required": True, "content": body}
    return described


def _reading_errors(operation: Operation) -> dict[str, str]:
    errors = {}
    for parameter in operation.parameters:
        if parameter.place == "query":
            errors["400"] = "A parameter is not what was expected."
        else:
            errors["404"] = "There is no host or domain of this name."
    if errors or operation.name == "snapshot":
        errors["409"] = "The newest cycle has no snapshot."
    return errors


def _content(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
