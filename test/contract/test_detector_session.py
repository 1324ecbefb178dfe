"""Sessions on the real runtime: settings, options and folders that a model is opened with."""

import os

import msgspec
import numpy as np
import pytest

from depai_robot.adapters.onnx_session import (
    CPU,
    CUDA,
    TENSORRT,
    ModelSession,
    RuntimeSettings,
    TensorSpec,
    engine_folder,
    provider_options,
    runtime_version,
)
from depai_robot.app.resource import resource_path
from depai_robot.values.error import ConfigError

FINDER = resource_path("models", "finder.onnx").read_bytes()
IMAGE = TensorSpec("image", (1, 1, 240, 320))
MAPS = TensorSpec("maps", (1, 5, 30, 40))


def open_finder(settings=None, *, inputs=(IMAGE,), outputs=(MAPS,)):
    settings = settings or RuntimeSettings()
    return ModelSession(
        "finder.onnx", FINDER, inputs=inputs, outputs=outputs, provider=CPU, settings=settings
    )


def test_short_names_are_the_runtimes_own():
    settings = RuntimeSettings(providers=("TensorRT", "cuda", "cpu", "OpenVINOExecutionProvider"))
    assert settings.provider_names() == (TENSORRT, CUDA, CPU, "OpenVINOExecutionProvider")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"threads": 0}, "threads"),
        ({"providers": []}, "length >= 1"),
        ({"fallback": "maybe"}, "Invalid enum value 'maybe'"),
        ({"warmup": 1}, "unknown field `warmup`"),
    ],
)
def test_a_file_with_wrong_settings_is_refused(wrong, words):
    with pytest.raises((msgspec.ValidationError, ConfigError), match=words):
        msgspec.convert(wrong, RuntimeSettings)


def test_a_gpu_computes_in_full_precision_on_the_device_that_was_named():
    settings = RuntimeSettings(device=1)
    assert provider_options(CUDA, settings, None)["use_tf32"] == "0"
    assert provider_options(CUDA, settings, None)["device_id"] == "1"
    assert provider_options(TENSORRT, settings, None) == {"device_id": "1", "trt_fp16_enable": "0"}
    assert provider_options(CPU, settings, None) == {}


def test_engines_lie_in_a_folder_of_the_owner_by_the_models_hash(tmp_path):
    cache = tmp_path / "engines"
    folder = engine_folder(cache, FINDER, TENSORRT)
    assert folder == engine_folder(cache, FINDER, TENSORRT)
    assert folder != engine_folder(cache, FINDER + b"x", TENSORRT)
    assert runtime_version() in folder.name
    assert folder.stat().st_mode & 0o777 == 0o700
    assert provider_options(TENSORRT, RuntimeSettings(), folder)["trt_engine_cache_path"] == str(folder)


def test_a_cache_that_others_can_write_is_refused(tmp_path):
    cache = tmp_path / "engines"
    cache.mkdir()
    cache.chmod(0o770)
    with pytest.raises(ConfigError, match="expected a folder of user .* chmod 700"):
        engine_folder(cache, FINDER, TENSORRT)
    cache.chmod(0o700)
    (tmp_path / "link").symlink_to(cache)
    with pytest.raises(ConfigError, match="expected a folder"):
        engine_folder(tmp_path / "link", FINDER, TENSORRT)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="engine_cache"):
        engine_folder(tmp_path / "file", FINDER, TENSORRT)
    if os.geteuid() == 0:
        os.chown(cache, 12345, 12345)
        with pytest.raises(ConfigError, match="has owner 12345"):
            engine_folder(cache, FINDER, TENSORRT)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (TensorSpec("picture", (1, 1, 240, 320)),)},
        {"inputs": (TensorSpec("image", (1, 1, 320, 240)),)},
        {"inputs": (TensorSpec("image", (1, 240, 320)),)},
        {"inputs": (IMAGE, IMAGE)},
        {"outputs": (TensorSpec("maps", (1, 5, 30, 40), "tensor(uint8)"),)},
        {"outputs": ()},
    ],
)
def test_other_inputs_or_outputs_are_refused(changes):
    with pytest.raises(ConfigError, match="has inputs and outputs .* expected"):
        open_finder(**changes)


def test_an_open_shape_takes_any_length_and_can_not_be_bound():
    anything = TensorSpec("maps", (1, None, None, 40))
    open_finder(outputs=(anything,))
    with pytest.raises(ConfigError, match="io_binding needs fixed ones"):
        open_finder(RuntimeSettings(io_binding=True), outputs=(anything,))


def test_a_bound_session_gives_values_of_its_own():
    session = open_finder(RuntimeSettings(io_binding=True))
    image = np.random.default_rng(1).normal(size=(1, 1, 240, 320)).astype(np.float32)
    (first,) = session.run({"image": image})
    kept = first.copy()
    session.run({"image": -image})
    np.testing.assert_array_equal(first, kept)
    (plain,) = open_finder().run({"image": image})
    np.testing.assert_array_equal(first, plain)
