"""The detector on the models that ship: what it finds on kept frames, and every way it must refuse to start."""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from depai_robot.adapters.onnx_detector import CPU, OnnxDetector
from depai_robot.adapters.onnx_session import RuntimeSettings, available_providers
from depai_robot.app.dock_observer import DockObserver, make_observer
from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.looks import publish, surest_look
from depai_robot.perception.manifest import FINDER_NAME, parse_manifest
from depai_robot.perception.network import next_region
from depai_robot.perception.region import Region
from depai_robot.perception.tag import read_tag
from depai_robot.ports import Detector
from depai_robot.values.error import ConfigError, DeviceFailedError

FRAMES = Path(__file__).parents[1] / "data" / "dock_frames"
TRUTH = json.loads((FRAMES / "truth.json").read_text(encoding="utf-8"))
WITH_DOCK = [name for name, entry in TRUTH.items() if entry["dock"]]
WITHOUT_DOCK = [name for name, entry in TRUTH.items() if not entry["dock"]]
DOCK = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))


def read_frame(name, stamp_ns=1):
    grey = cv2.imread(str(FRAMES / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
    focal_px = TRUTH[name]["focal_px"]
    intrinsics = CameraIntrinsics(640, 480, focal_px, focal_px, 319.5, 239.5)
    return Frame(np.repeat(grey[:, :, None], 3, axis=2), stamp_ns, intrinsics)


@pytest.fixture(scope="module", params=["models", "models/int8"])
def folder(request) -> Path:
    return resource_path(*request.param.split("/"))


@pytest.fixture(scope="module")
def detector(folder) -> Detector:
    return OnnxDetector(folder)


def estimate(detector, frame, keypoints):
    gate = detector.manifest.make_gate()
    return publish(
        surest_look(keypoints, partial(detector.detect_in, frame), frame.intrinsics, DOCK, gate=gate),
        frame.intrinsics,
        DOCK,
        stamp_ns=frame.stamp_ns,
        gate=gate,
        model_sha256=detector.model_sha256,
    )


@pytest.mark.parametrize("name", WITH_DOCK)
def test_the_dock_is_found_where_it_is(detector, name):
    frame, truth = read_frame(name), TRUTH[name]["dock"]
    keypoints = detector.detect(frame)
    assert keypoints is not None
    observation = estimate(detector, frame, keypoints)
    assert observation is not None
    error_m = np.linalg.norm(np.array(observation.dock_in_camera.position_m) - truth["position_m"])
    assert error_m < max(0.05, 0.05 * np.linalg.norm(truth["position_m"]))
    between = np.array(truth["rotation"]).T @ observation.dock_in_camera.rotation()
    assert abs(np.degrees(np.arctan2(between[1, 0], between[0, 0]))) < 10


@pytest.mark.parametrize("name", WITHOUT_DOCK)
def test_nothing_is_published_of_a_room_without_a_dock(detector, name):
    frame = read_frame(name)
    keypoints = detector.detect(frame)
    assert keypoints is None or estimate(detector, frame, keypoints) is None


def test_a_look_in_the_right_region_finds_the_same(detector):
    frame = read_frame("middle")
    keypoints = detector.detect(frame)
    visible = keypoints.visibility > 0.5
    for again in (
        detector.detect_in(frame, next_region(keypoints)),
        detector.detect_in(frame, next_region(keypoints), blur_px=2.0),
    ):
        assert np.abs(again.points_px - keypoints.points_px)[visible].max() < 3.0


@pytest.mark.parametrize("name", WITH_DOCK)
def test_a_look_beside_the_dock_gives_nothing_that_is_published(detector, name):
    frame = read_frame(name)
    for x, y in ((30.0, 30.0), (610.0, 30.0), (30.0, 450.0), (610.0, 450.0)):
        keypoints = detector.detect_in(frame, Region(x, y, 60.0))
        assert keypoints is None or estimate(detector, frame, keypoints) is None


def test_the_same_frame_gives_the_same_bits(detector):
    first, second = (detector.detect(read_frame("middle")) for _ in range(2))
    np.testing.assert_array_equal(first.points_px, second.points_px)
    np.testing.assert_array_equal(first.sigma_px, second.sigma_px)


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (1280, 720), (479, 641)])
def test_odd_images_do_no_harm(detector, folder, size):
    width, height = size
    intrinsics = CameraIntrinsics(width, height, 400.0, 400.0, width / 2, height / 2)
    for image in (np.zeros((height, width, 3), np.uint8), np.full((height, width, 3), 255, np.uint8)):
        frame = Frame(image, 1, intrinsics)
        keypoints = detector.detect(frame)
        if folder.name == "int8":  # coarser: it may see something in a single pixel, but publishes nothing
            assert keypoints is None or estimate(detector, frame, keypoints) is None
        else:
            assert keypoints is None


def test_the_observer_publishes_from_the_second_frame_on():
    observer = make_observer(resource_path("models"), resource_path("config", "dock.yaml"))
    published = []
    for i in range(4):
        keypoints, observation = observer(read_frame("middle", stamp_ns=(i + 1) * 100_000_000))
        assert keypoints is not None
        published.append(observation is not None)
    assert published == [False, True, True, True]
    _, observation = observer(read_frame("empty_room", stamp_ns=500_000_000))
    assert observation is None


def test_the_observer_passes_over_a_dock_with_another_tag(detector):
    observer = DockObserver(detector, DOCK, gate=detector.manifest.make_gate())
    keypoints, _ = observer(read_frame("middle"))
    seen = observer.seen_tag_id
    assert keypoints is not None
    assert seen is not None
    observer = DockObserver(detector, DOCK, gate=detector.manifest.make_gate())
    observer.tag_id = seen
    assert observer(read_frame("middle"))[0] is not None
    observer.tag_id = seen + 1
    assert observer(read_frame("middle", stamp_ns=2))[0] is None


def blurred_first_look(detector, monkeypatch):
    """The detector, with a first look that is unsure and too far off to read the tag by."""
    detect_all = detector.detect_all

    def unsure(frame, **limits):
        return tuple(
            replace(seen, points_px=seen.points_px + 9.0, sigma_px=np.full(12, 25.0), score=0.51)
            for seen in detect_all(frame, **limits)
        )

    monkeypatch.setattr(detector, "detect_all", unsure)
    return detector


def test_a_second_opinion_is_published_and_its_tag_is_read(detector, monkeypatch):
    right = detector.detect(read_frame("middle"))
    tag_id = read_tag(read_frame("middle").grey, right)
    assert tag_id is not None
    detector = blurred_first_look(detector, monkeypatch)
    assert read_tag(read_frame("middle").grey, detector.detect(read_frame("middle"))) is None
    for wanted in (None, tag_id):
        observer = DockObserver(detector, DOCK, gate=detector.manifest.make_gate())
        observer.tag_id = wanted
        outcomes = [observer(read_frame("middle", stamp_ns=n * 100_000_000)) for n in (1, 2)]
        assert np.median(np.abs(outcomes[0][0].points_px - right.points_px)) < 1.0
        assert outcomes[1][1] is not None
        assert observer.seen_tag_id == tag_id
    observer.tag_id = tag_id + 1
    assert observer(read_frame("middle", stamp_ns=300_000_000)) == (None, None)


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(resource_path("models"), folder)
    return folder


def rewrite(models, change):
    """Changes the manifest's JSON and saves it."""
    path = models / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def adopt(models, name, data):
    """Replaces a file and makes the manifest expect it, as someone with a set of their own would."""
    (models / name).write_bytes(data)

    def change(manifest):
        entry = manifest["files"][name]
        entry["sha256"], entry["size_bytes"] = hashlib.sha256(data).hexdigest(), len(data)

    rewrite(models, change)


def refused(models, words):
    with pytest.raises(ConfigError, match=words) as caught:
        OnnxDetector(models)
    return str(caught.value)


def test_the_copy_itself_is_accepted(models):
    assert (
        OnnxDetector(models).model_sha256
        == hashlib.sha256((models / "manifest.json").read_bytes()).hexdigest()
    )


def test_an_absent_file_is_named(models):
    (models / "keypoints.onnx").unlink()
    assert "keypoints.onnx" in refused(models, "can't be read: No such file")
    assert "manifest.json" in refused(models / "nowhere", "can't be read: No such file")


@pytest.mark.parametrize("name", ["finder.onnx", "keypoints.onnx", "golden.npz"])
def test_damage_is_refused_with_both_hashes(models, name):
    good = (models / name).read_bytes()
    expected = hashlib.sha256(good).hexdigest()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x10
    for bad in (bytes(flipped), good[: len(good) // 2], b""):
        (models / name).write_bytes(bad)
        message = refused(models, "sha256 is")
        assert name in message
        assert expected in message
        assert hashlib.sha256(bad).hexdigest() in message
    (models / name).write_bytes(good + b"\0")
    refused(models, "longer than")


@pytest.mark.parametrize("data", [b"garbage", b"\x08\x08" * 100])
def test_a_file_that_is_no_model_is_refused_though_its_hash_is_right(models, data):
    adopt(models, "finder.onnx", data)
    assert "finder.onnx" in refused(models, "can't be loaded")


def test_swapped_models_are_refused(models):
    finder, keypoints = ((models / n).read_bytes() for n in ("finder.onnx", "keypoints.onnx"))
    adopt(models, "finder.onnx", keypoints)
    adopt(models, "keypoints.onnx", finder)
    refused(models, "has inputs and outputs")


def test_changed_weights_fail_the_golden_vector(models):
    """A single flipped bit in a weight still loads; if its hash were adopted, the golden vector is left."""
    data = bytearray((models / "finder.onnx").read_bytes())
    weights = data.find(b"\x4a", len(data) // 3)
    for offset in range(weights + 3000, weights + 7000):
        data[offset] ^= 0x40  # in every fourth byte an exponent's high bit
    adopt(models, "finder.onnx", bytes(data))
    refused(models, "golden vector|not finite|can't be loaded")


def test_tensors_in_other_files_are_refused(models):
    data = (models / "finder.onnx").read_bytes()
    # metadata_props (field 14 of ModelProto) takes the same key and value message as external_data.
    entry = b"\x0a\x08location\x12\x05/etc/"
    adopt(models, "finder.onnx", data + b"\x72" + bytes([len(entry)]) + entry)
    refused(models, "keeps tensors in other files")


def test_a_manifest_that_lists_other_tensors_is_refused(models):
    rewrite(models, lambda m: m["files"]["finder.onnx"]["inputs"][0].update(shape=[1, 3, 240, 320]))
    refused(models, "expected opset 17")


def test_another_golden_vector_is_refused(models):
    with np.load(models / "golden.npz") as archive:
        golden = dict(archive)
    golden["presence"] = golden["presence"] + 0.5
    np.savez(models / "other.npz", **golden)
    adopt(models, "golden.npz", (models / "other.npz").read_bytes())
    refused(models, "presence differs from the golden vector")
    golden["presence"] = golden["presence"].astype(np.float64)
    np.savez(models / "other.npz", **golden)
    adopt(models, "golden.npz", (models / "other.npz").read_bytes())
    refused(models, "a golden vector has")
    adopt(models, "golden.npz", b"PK\x03\x04 nothing")
    refused(models, "not a golden vector")


def with_providers(*providers, **changes):
    return RuntimeSettings(providers=providers, **changes)


def test_a_provider_is_never_replaced_in_silence(models):
    with pytest.raises(ConfigError, match="NoSuchExecutionProvider: not in this build"):
        OnnxDetector(models, settings=with_providers("NoSuchExecutionProvider"))
    detector = OnnxDetector(models, settings=with_providers("NoSuchExecutionProvider", "cpu"))
    assert detector.provider == CPU
    assert "NoSuchExecutionProvider" in detector.refusals[0]
    with pytest.raises(ConfigError, match="needs a provider"):
        OnnxDetector(models, settings=with_providers())


def test_a_robot_may_demand_the_first_provider(models):
    with pytest.raises(ConfigError, match="no execution provider serves; CUDA"):
        OnnxDetector(models, settings=with_providers("cuda", "cpu", fallback="fail"))
    assert OnnxDetector(models, settings=with_providers("cpu", "cuda", fallback="fail")).provider == CPU


def test_a_provider_that_the_build_lists_but_can_not_run_the_model_is_refused(models):
    """Builds list providers whatever the machine has; asked for one alone, onnxruntime takes the CPU."""
    listed = [name for name in available_providers() if name != CPU]
    if not listed:
        pytest.skip("this build of onnxruntime has the CPU alone")
    detector = OnnxDetector(models, settings=with_providers(*listed, "cpu"))
    assert detector.provider == CPU
    assert len(detector.refusals) == len(listed)


def test_each_provider_has_its_own_tolerance(models):
    with np.load(models / "golden.npz") as archive:
        changed = dict(archive)
    changed["presence"] = changed["presence"] + np.float32(0.01)
    np.savez(models / "other.npz", **changed)
    adopt(models, "golden.npz", (models / "other.npz").read_bytes())
    refused(models, "presence differs from the golden vector by 1.00e-02")
    rewrite(models, lambda m: m.update(golden_tolerance_by_provider={CPU: 0.02}))
    assert OnnxDetector(models).provider == CPU
    rewrite(models, lambda m: m.update(golden_tolerance_by_provider={"CUDAExecutionProvider": 0.02}))
    refused(models, "expected at most 2.00e-03")
    rewrite(models, lambda m: m.update(golden_tolerance_by_provider={CPU: 0.0}))
    refused(models, "golden_tolerance_by_provider.CPUExecutionProvider must be in")


def test_bound_buffers_change_no_bit_and_threads_next_to_nothing(detector, folder):
    settings = (RuntimeSettings(io_binding=True), RuntimeSettings(io_binding=True, threads=2))
    bound, threaded = (OnnxDetector(folder, settings=each) for each in settings)
    for name in WITH_DOCK:
        plain, again = detector.detect(read_frame(name)), bound.detect(read_frame(name))
        np.testing.assert_array_equal(plain.points_px, again.points_px)
        np.testing.assert_array_equal(plain.sigma_px, again.sigma_px)
        np.testing.assert_allclose(threaded.detect(read_frame(name)).points_px, plain.points_px, atol=1e-2)


def test_another_dock_is_refused(tmp_path):
    text = resource_path("config", "dock.yaml").read_text(encoding="utf-8")
    other = tmp_path / "dock.yaml"
    other.write_text(text.replace("half_width_m: 0.06", "half_width_m: 0.07"), encoding="utf-8")
    make_observer(resource_path("models"), other)  # pads are not seen
    other.write_text(text.replace("thickness_m: 0.02", "thickness_m: 0.03"), encoding="utf-8")
    with pytest.raises(ConfigError, match="trained for"):
        make_observer(resource_path("models"), other)
    with pytest.raises(ConfigError, match="can't be read"):
        make_observer(resource_path("models"), tmp_path / "none.yaml")


class NanSession:
    def __init__(self, value):
        self.value = value

    def run(self, names, inputs):
        if isinstance(self.value, Exception):
            raise self.value
        return [np.full((1, 5, 30, 40), self.value, np.float32)]


@pytest.mark.parametrize("value", [np.nan, np.inf, RuntimeError("device lost")])
def test_a_runtime_that_fails_while_running_is_a_failed_device(value):
    detector = OnnxDetector(resource_path("models"))
    detector._finder._session = NanSession(value)
    with pytest.raises(DeviceFailedError, match="not finite|device lost"):
        detector.detect(read_frame("middle"))


@pytest.mark.parametrize("fallback", ["warn", "fail"])
def test_a_provider_that_dies_is_replaced_by_the_next_unless_forbidden(fallback):
    detector = OnnxDetector(resource_path("models"), settings=with_providers("cpu", "cpu", fallback=fallback))
    detector._finder._session = NanSession(RuntimeError("device lost"))
    if fallback == "fail":
        with pytest.raises(DeviceFailedError, match="device lost"):
            detector.detect(read_frame("middle"))
        return
    assert detector.detect(read_frame("middle")) is not None
    assert "device lost" in detector.refusals[0]
    detector._finder._session = NanSession(RuntimeError("lost again"))
    with pytest.raises(DeviceFailedError, match="lost again"):
        detector.detect(read_frame("middle"))


def test_the_manifest_that_ships_is_whole():
    manifest = parse_manifest(resource_path("models", "manifest.json").read_bytes())
    assert manifest.gate.threshold >= 0.5
    total = sum(entry.size_bytes for entry in manifest.files.values())
    assert total < 8 * 2**20


@pytest.mark.parametrize("name", ["dark", "blurred"])
def test_a_finder_that_takes_the_dock_for_a_smaller_thing_is_corrected(folder, monkeypatch, name):
    detector = OnnxDetector(folder)
    right = detector.detect(read_frame(name))
    run = detector._run

    def too_small(network, pixels):
        outputs = run(network, pixels)
        if network == FINDER_NAME:
            outputs[0][:, 3:] += np.float32(np.log(0.42))
        return outputs

    monkeypatch.setattr(detector, "_run", too_small)
    found = detector.detect(read_frame(name))
    assert found is not None
    visible = right.visibility > 0.5
    assert np.median(np.abs(found.points_px - right.points_px)[visible]) < 1.5


def test_a_closer_look_that_shows_no_dock_does_not_undo_the_first(folder, monkeypatch):
    detector = OnnxDetector(folder)
    look = detector._keypoints_in
    looks = []

    def astray(grey, region):
        keypoints = look(grey, region if not looks else region.scaled(20.0))
        looks.append(keypoints)
        return keypoints

    monkeypatch.setattr(detector, "_keypoints_in", astray)
    monkeypatch.setattr("depai_robot.adapters.onnx_detector.is_close", lambda region, other: False)
    found = detector.detect(read_frame("dark"))
    assert looks[1].score < 0.5, "the closer look went astray"
    assert found is looks[0]
