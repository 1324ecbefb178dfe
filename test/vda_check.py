"""Validates VDA 5050 messages against the standard's schemas and against the set of keys that they know."""

import functools
import json
from pathlib import Path

import jsonschema

SCHEMAS = Path(__file__).parent / "data" / "vda5050"


@functools.cache
def validator(version, name):
    schema = json.loads((SCHEMAS / version / f"{name}.schema").read_text())
    kind = jsonschema.validators.validator_for(schema)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def unknown_keys(value, schema, root, path="$"):
    if "$ref" in schema:
        schema = root["definitions"][schema["$ref"].split("/")[-1]]
    if isinstance(value, dict) and "properties" in schema:
        for key, part in value.items():
            if key not in schema["properties"]:
                yield f"{path}.{key}"
            else:
                yield from unknown_keys(part, schema["properties"][key], root, f"{path}.{key}")
    if isinstance(value, list) and "items" in schema:
        for number, part in enumerate(value):
            yield from unknown_keys(part, schema["items"], root, f"{path}[{number}]")


def check(topic, payload):
    """The message as a dictionary, or an assertion about what is wrong with it."""
    interface, major, manufacturer, serial, name = topic.split("/")
    version = {"v2": "2.1.0", "v3": "3.0.0"}[major]
    assert interface == {"v2": "uagv", "v3": "vda5050"}[major]
    body = json.loads(payload)
    checker = validator(version, name)
    checker.validate(body)
    assert list(unknown_keys(body, checker.schema, checker.schema)) == []
    assert body["version"] == version
    assert (body["manufacturer"], body["serialNumber"]) == (manufacturer, serial)
    stamp = body["timestamp"]
    assert len(stamp) == 24
    assert stamp.endswith("Z")
    assert stamp[19] == "."
    return body
