"""One ONNX model on onnxruntime: bytes in, a checked session out. The only file that imports the runtime.

onnxruntime replaces a provider that does not work by the CPU in silence, loads a model whose bits were flipped, and
passes NaN on. So a session here is opened on one provider at a time and asked which it took, has exactly the inputs
and outputs that were expected, and gives finite values or an error.
"""

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from depai_robot.values.error import ConfigError, DeviceFailedError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
FLOAT = "tensor(float)"

_NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
# TensorRT leaves what it can't do to the next of the list; without CUDA beside it the CPU would take that.
_COMPANIONS: Mapping[str, tuple[str, ...]] = {TENSORRT: (CUDA,)}
# A tensor whose data lies in another file names it by an entry with the key "location" (onnx.proto,
# TensorProto.external_data): field 1, length 8, the key, then field 2. Our models never have one.
_EXTERNAL_DATA = b"\x0a\x08location\x12"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

Float = NDArray[np.float32]


class RuntimeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How models are run; part of the robot's file.

    Attributes:
        providers: ``tensorrt``, ``cuda``, ``cpu`` or onnxruntime's own names, tried one at a time in this order; the
            first that proves itself serves. One that is named twice is tried twice.
        fallback: ``warn`` goes on to the next provider and says so in the diagnostics; ``fail`` starts on the first
            or not at all.
        threads: of one inference.
        io_binding: keep inputs and outputs in buffers that are bound once; saves copies on a GPU.
        warm_up_runs: inferences before the first image, so that it is not the slow one.
        engine_cache: folder for TensorRT's engines, made if absent and refused unless it is its owner's alone; empty
            builds them anew at each start, which takes minutes.
        device: number of the GPU.
    """

    providers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] = ("cpu",)
    fallback: Literal["warn", "fail"] = "warn"
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    io_binding: bool = False
    warm_up_runs: Annotated[int, Meta(ge=0, le=100)] = 1
    engine_cache: str = ""
    device: Annotated[int, Meta(ge=0, le=63)] = 0

    def __post_init__(self) -> None:
        # msgspec checks the bounds of what it decodes, not of what a program makes.
        if not self.providers or not 1 <= self.threads <= 64 or not 0 <= self.warm_up_runs <= 100:
            raise ConfigError(
                f"a runtime needs a provider, 1 to 64 threads and 0 to 100 warm-up runs, got {self}"
            )
        if self.fallback not in ("warn", "fail"):
            raise ConfigError(f"fallback is warn or fail, got {self.fallback!r}")

    def provider_names(self) -> tuple[str, ...]:
        """As onnxruntime calls them."""
        return tuple(_NAMES.get(name.lower(), name) for name in self.providers)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output that a model must have.

    Attributes:
        name: in the graph.
        shape: a number must be that; None may be anything.
        type: as onnxruntime says it.
    """

    name: str
    shape: tuple[int | None, ...]
    type: str = FLOAT

    def fits(self, name: str, shape: Sequence[Any], kind: str) -> bool:
        """Whether a model's own word is this."""
        if (name, kind, len(shape)) != (self.name, self.type, len(self.shape)):
            return False
        return all(want is None or want == got for want, got in zip(self.shape, shape, strict=True))


class ModelSession:
    """A model on one provider. Use from one thread at a time."""

    def __init__(
        self,
        name: str,
        data: bytes,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        provider: str,
        settings: RuntimeSettings,
        strict: bool = True,
    ) -> None:
        """Opens the model from the very bytes whose hash was checked.

        Args:
            name: of the file, for messages.
            data: the model.
            inputs: it must have these, in this order.
            outputs: and these.
            provider: onnxruntime's name of it.
            settings: the rest.
            strict: False lets the model leave lengths open that a spec fixes, and have outputs beside these.

        Raises:
            ConfigError: the provider does not serve, or the model is not the expected one.
        """
        if _EXTERNAL_DATA in data:
            raise ConfigError(f"{name} keeps tensors in other files, expected one file with all of them")
        self._name = name
        self.provider = provider
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._session = _open(name, data, provider, settings)
        if strict:
            self._require_signature()
        else:
            self._require_names()
        self._names = None if strict else [spec.name for spec in self._outputs]
        shapes = [spec.shape for spec in (*self._inputs, *self._outputs)]
        fixed = all(length is not None for shape in shapes for length in shape)
        self._binding: Any = None
        if settings.io_binding:
            if not fixed:
                raise ConfigError(f"{name} has open shapes, io_binding needs fixed ones; switch it off")
            self._bind()

    def run(self, feeds: Mapping[str, Float]) -> list[Float]:
        """The outputs, in the order of their specs.

        Raises:
            DeviceFailedError: the runtime failed or gave a value that is not finite.
        """
        try:
            outputs = self._run_bound(feeds) if self._binding else self._session.run(self._names, dict(feeds))
        except Exception as error:  # the runtime's exceptions have no common root of their own
            raise DeviceFailedError(f"onnxruntime failed on {self._name}: {error}") from error
        for spec, output in zip(self._outputs, outputs, strict=True):
            if not isinstance(output, np.ndarray) or not np.isfinite(output).all():
                raise DeviceFailedError(
                    f"{self._name} gave a value that is not finite in {spec.name}, expected finite ones"
                )
        return list(outputs)

    def warm_up(self, runs: int) -> None:
        """Runs on zeros; only for models with fixed shapes.

        Raises:
            DeviceFailedError: as :meth:`run`.
        """
        feeds = {
            spec.name: np.zeros([length or 1 for length in spec.shape], np.float32) for spec in self._inputs
        }
        for _ in range(runs):
            self.run(feeds)

    def _require_signature(self) -> None:
        for what, specs, seen in (
            ("inputs", self._inputs, self._session.get_inputs()),
            ("outputs", self._outputs, self._session.get_outputs()),
        ):
            listed = [(t.name, tuple(t.shape), t.type) for t in seen]
            same = len(listed) == len(specs) and all(
                spec.fits(*entry) for spec, entry in zip(specs, listed, strict=True)
            )
            if not same:
                expected = [(spec.name, spec.shape, spec.type) for spec in specs]
                raise ConfigError(f"{self._name} has inputs and outputs {what} {listed}, expected {expected}")

    def _require_names(self) -> None:
        """Every input that there is, of the right rank and lengths where the model fixes them; every output by name."""
        seen = [(t.name, tuple(t.shape), t.type) for t in self._session.get_inputs()]
        wanted = [(spec.name, spec.shape, spec.type) for spec in self._inputs]
        fits = len(seen) == len(wanted) and all(
            (name, kind, len(shape)) == (spec.name, spec.type, len(spec.shape))
            and all(
                not isinstance(length, int) or length in (want, None)
                for length, want in zip(shape, spec.shape, strict=True)
            )
            for (name, shape, kind), spec in zip(seen, self._inputs, strict=True)
        )
        if not fits:
            raise ConfigError(f"{self._name} has inputs {seen}, expected {wanted}")
        there = [t.name for t in self._session.get_outputs()]
        missing = [spec.name for spec in self._outputs if spec.name not in there]
        if missing:
            raise ConfigError(f"{self._name} has no outputs {missing}, it has {there}")

    def _bind(self) -> None:
        import onnxruntime

        binding = self._session.io_binding()
        self._buffers = {}
        for spec in self._inputs:
            buffer = np.zeros([length or 1 for length in spec.shape], np.float32)
            self._buffers[spec.name] = buffer
            # The value shares the array's memory: a frame is copied into it, nothing is allocated.
            binding.bind_ortvalue_input(spec.name, onnxruntime.OrtValue.ortvalue_from_numpy(buffer))
        for spec in self._outputs:
            # The place is the CPU's, where decoding happens; a GPU's result is copied there once.
            binding.bind_output(spec.name, "cpu")
        self._binding = binding

    def _run_bound(self, feeds: Mapping[str, Float]) -> list[Float]:
        for name, buffer in self._buffers.items():
            if feeds[name].shape != buffer.shape or feeds[name].dtype != buffer.dtype:
                raise ConfigError(f"{name} is {buffer.shape} float32, got {feeds[name].shape}")
            np.copyto(buffer, feeds[name])
        self._session.run_with_iobinding(self._binding)
        # Copies: the buffers are written again by the next image.
        return [np.array(value) for value in self._binding.copy_outputs_to_cpu()]


def runtime_version() -> str:
    """Of the installed onnxruntime.

    Raises:
        ConfigError: none is installed.
    """
    return str(_runtime().__version__)


def available_providers() -> tuple[str, ...]:
    """What this build of onnxruntime was compiled with; says nothing of the drivers."""
    return tuple(_runtime().get_available_providers())


def provider_options(provider: str, settings: RuntimeSettings, engines: Path | None) -> dict[str, str]:
    """Options of one provider, as onnxruntime names them.

    Source: onnxruntime.ai, execution providers, "CUDA" and "TensorRT": option names and values.
    """
    if provider == CUDA:
        # TF32 keeps 10 bits of mantissa: a GPU would not compute what the golden vector says.
        return {"device_id": str(settings.device), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    if provider != TENSORRT:
        return {}
    options = {"device_id": str(settings.device), "trt_fp16_enable": "0"}
    if engines is not None:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(engines),
        }
    return options


def engine_folder(cache: Path, data: bytes, provider: str) -> Path:
    """The folder of a model's engines, by the hashes of model and runtime; made if absent.

    An engine is a program: whoever can write it decides what runs.

    Raises:
        ConfigError: the folder is a link, or somebody else's, or open to others.
    """
    key = hashlib.sha256(data).hexdigest()
    folder = cache / f"{key[:32]}-{provider}-{runtime_version()}"
    for place in (cache, folder):
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            seen = place.lstat()
        except OSError as error:
            raise ConfigError(f"engine_cache {place}: {error.strerror or error}") from error
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & _OTHERS:
            raise ConfigError(
                f"engine_cache {place} has owner {seen.st_uid} and mode {stat.filemode(seen.st_mode)}, "
                f"expected a folder of user {os.geteuid()} with drwx------: chmod 700 {place}"
            )
    return folder


def _runtime() -> Any:
    # Builds from 1.32 on carry telemetry that is on by default on Linux too; a robot does not report to anybody.
    # Read once, when the library is loaded; disable_telemetry_events() comes too late.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"no inference runtime ({error}): pip install 'depai_robot[onnx]'; on a Jetson see docs/jetson.md"
        ) from error
    return onnxruntime


def _open(name: str, data: bytes, provider: str, settings: RuntimeSettings) -> Any:
    """A session on one provider alone, or an error."""
    onnxruntime = _runtime()
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"not in this build of onnxruntime, which has {onnxruntime.get_available_providers()}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are in the exceptions
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != CPU:
        # Otherwise a provider without its driver is replaced by the CPU in silence.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    engines = None
    if provider == TENSORRT and settings.engine_cache:
        engines = engine_folder(Path(settings.engine_cache), data, provider)
    asked = (provider, *_COMPANIONS.get(provider, ()))
    try:
        session = onnxruntime.InferenceSession(
            data,
            options,
            providers=list(asked),
            provider_options=[provider_options(each, settings, engines) for each in asked],
        )
    except Exception as error:  # the runtime's exceptions have no common root of their own
        raise ConfigError(f"{name} can't be loaded: {error}") from error
    if session.get_providers()[0] != provider:
        raise ConfigError(f"{name}: asked for {provider}, onnxruntime took {session.get_providers()}")
    return session
