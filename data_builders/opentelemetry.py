"""Unpack the log records of OpenTelemetry's JSON: resourceLogs, scopeLogs, logRecords.

See opentelemetry.io/docs/specs/otlp, JSON Protobuf Encoding.
"""

from typing import Any


def log_records(value: Any) -> list[Any] | None:
    """Return the log records of an export, with plain values and their resource's attributes; None for anything else.

    {"body": {"stringValue": "x"}, "attributes": [{"key": "a", "value": {"intValue": "1"}}]} becomes {"body": "x",
    "attributes": {"a": "1"}}.
    """
    if not isinstance(value, dict) or not isinstance(value.get("resourceLogs"), list):
        return None
    return [_plain_record(record, resource) for resource in value["resourceLogs"]
            for scope in [*_members(resource, "scopeLogs"), *_members(resource, "instrumentationLibraryLogs")]
            for record in _members(scope, "logRecords")]


def _members(value: Any, name: str) -> list[Any]:
    members = value.get(name) if isinstance(value, dict) else None
    return members if isinstance(members, list) else []


def _plain_record(record: Any, resource: dict[str, Any]) -> Any:
    if not isinstance(record, dict):
        return record
    return {**record, "body": _plain(record.get("body")), "attributes": _attributes(_members(record, "attributes")),
            "resource": _attributes(_members(resource.get("resource"), "attributes"))}


def _attributes(pairs: list[Any]) -> dict[str, Any]:
    return {str(pair["key"]): _plain(pair.get("value")) for pair in pairs if isinstance(pair, dict) and "key" in pair}


def _plain(value: Any) -> Any:
    """Return what stands in an AnyValue; anything else as it is."""
    match value:
        case {"kvlistValue": dict(members)}:
            return _attributes(_members(members, "values"))
        case {"arrayValue": dict(members)}:
            return [_plain(member) for member in _members(members, "values")]
        case dict() if len(value) == 1 and next(iter(value)).endswith("Value"):
            return next(iter(value.values()))
    return value
