import copy
import hashlib
import json

import pytest

from depai_robot.perception.gate import FEATURES, OPINION_FEATURES, Opinions
from depai_robot.perception.manifest import FileEntry, parse_manifest, require_file
from depai_robot.values.error import ConfigError

FILE = {"sha256": "a" * 64, "size_bytes": 10}
MANIFEST = {
    "version": 1,
    "name": "dock-1",
    "files": {name: dict(FILE) for name in ("finder.onnx", "keypoints.onnx", "golden.npz")},
    "gate": {
        "features": list(FEATURES),
        "weights": [0.1] * len(FEATURES),
        "threshold": 0.9,
        "tilt_max_rad": 0.3,
    },
    "golden_tolerance": 0.001,
    "dock_sha256": "b" * 64,
    "seed": 1,
    "command": "python -m training.train --seed 1",
}


OPINIONS = {"features": list(OPINION_FEATURES), "weights": [0.2] * len(OPINION_FEATURES), "ask_below": 0.97}


def changed(path, value):
    manifest = copy.deepcopy(MANIFEST)
    *folders, leaf = path
    place = manifest
    for folder in folders:
        place = place[folder]
    place[leaf] = value
    return json.dumps(manifest).encode()


def diagonal(value, first=None, corner=0.0):
    rows = [[value if i == j else 0.0 for j in range(24)] for i in range(24)]
    rows[0][0] = value if first is None else first
    rows[0][1] = corner
    return rows


def test_a_manifest_is_read():
    manifest = parse_manifest(json.dumps(MANIFEST).encode())
    assert manifest.files["finder.onnx"].size_bytes == 10
    assert manifest.make_gate().threshold == 0.9
    assert manifest.make_gate().opinions is None
    several = parse_manifest(changed(("gate", "opinions"), OPINIONS)).make_gate().opinions
    assert several == Opinions(tuple(OPINIONS["weights"]), 0.97)
    assert manifest.make_covariance() is None
    with_covariance = parse_manifest(changed(("keypoint_covariance",), diagonal(2.0)))
    assert with_covariance.make_covariance().tolist() == diagonal(2.0)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("version",), 2, "version must be 1, got 2"),
        (("extra",), 1, "unknown field `extra`"),
        (("files", "finder.onnx", "sha256"), "A" * 64, "64 lower-case hexadecimal"),
        (("files", "finder.onnx", "size_bytes"), 0, "size_bytes of finder.onnx"),
        (("files", "finder.onnx", "size_bytes"), 2**40, "size_bytes of finder.onnx"),
        (("files", "other.onnx"), FILE, "files must be"),
        (("files", "../finder.onnx"), FILE, "files must be"),
        (("gate", "features"), ["one"], "gate.features must be"),
        (("gate", "weights"), [1.0], "7 finite weights"),
        (("gate", "threshold"), 1.5, "threshold"),
        (("gate", "opinions"), OPINIONS | {"features": ["one"]}, "gate.opinions.features must be"),
        (("gate", "opinions"), OPINIONS | {"weights": [1.0]}, "opinions: 4 finite weights"),
        (("gate", "opinions"), OPINIONS | {"ask_below": 1.0}, "ask_below"),
        (("gate", "opinions"), {"weights": [1.0]}, "missing required field `features`"),
        (("golden_tolerance",), 5, "golden_tolerance"),
        (("seed",), "1", "Expected `int`"),
        (("keypoint_covariance",), [[1.0]], "24 rows of 24"),
        (("keypoint_covariance",), diagonal(1.0, first=-1.0), "eigenvalues"),
        (("keypoint_covariance",), diagonal(1e5), "eigenvalues"),
        (("keypoint_covariance",), diagonal(1.0, corner=0.5), "finite and symmetric"),
    ],
)
def test_what_is_not_a_manifest_is_refused_by_name(path, value, words):
    with pytest.raises(ConfigError, match=words):
        parse_manifest(changed(path, value))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"version": 1}'])
def test_other_bytes_are_refused(data):
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        parse_manifest(data)


def test_a_file_is_its_hash():
    data = b"0123456789"
    entry = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    require_file("finder.onnx", entry, data)
    for bad in (data[:-1], b"1123456789"):
        with pytest.raises(ConfigError) as caught:
            require_file("finder.onnx", entry, bad)
        assert entry.sha256 in str(caught.value)
        assert hashlib.sha256(bad).hexdigest() in str(caught.value)
        assert "finder.onnx" in str(caught.value)
