"""What Earth Engine sends to a client that starts: its interface, and its functions."""

import importlib.util
from pathlib import Path
from typing import Any


def algorithms() -> bytes:
    """Read the list of functions that the client brings for its own tests."""
    spec = importlib.util.find_spec("ee")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "tests/algorithms.json").read_bytes()


def _method(
    verb: str, path: str, name: str, pattern: str = "^projects/[^/]+/assets/.*$"
) -> dict[str, Any]:
    where = {"location": "path", "required": True, "type": "string", "pattern": pattern}
    method = {
        "id": f"earthengine.{path}",
        "httpMethod": verb,
        "path": path,
        "parameterOrder": [name],
        "parameters": {name: where},
        "response": {"$ref": "Any"},
    }
    return {**method, "request": {"$ref": "Any"}} if verb == "POST" else method


def discovery(url: str) -> dict[str, Any]:
    """Describe the interface, as far as the client asks for it."""
    project = "^projects/[^/]+$"
    query = {"type": "string", "location": "query"}
    anything = {"type": "object", "additionalProperties": {"type": "any"}, "id": "Any"}
    compute = _method("POST", "v1/{+project}/value:compute", "project", project)
    listing = _method("GET", "v1/{+parent}/algorithms", "parent", project)
    get_pixels = _method("POST", "v1/{+name}:getPixels", "name")
    return {
        "kind": "discovery#restDescription",
        "id": "earthengine:v1",
        "name": "earthengine",
        "version": "v1",
        "rootUrl": f"{url}/",
        "servicePath": "",
        "parameters": {
            "alt": {**query, "default": "json"},
            "key": query,
            "fields": query,
            "prettyPrint": {**query, "type": "boolean", "default": "true"},
        },
        "schemas": {"Any": anything},
        "resources": {
            "projects": {
                "methods": {},
                "resources": {
                    "algorithms": {"methods": {"list": listing}},
                    "value": {"methods": {"compute": compute}},
                    "assets": {"methods": {"getPixels": get_pixels}},
                },
            }
        },
    }
