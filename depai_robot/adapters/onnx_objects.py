"""Any detector with a card, on onnxruntime: the same session, checks and providers as the dock's models."""

import hashlib
from pathlib import Path

import numpy as np

from depai_robot.adapters.onnx_session import ModelSession, RuntimeSettings, TensorSpec, runtime_version
from depai_robot.perception.frame import Frame
from depai_robot.perception.objects import (
    MapForm,
    ObjectCard,
    SeenObject,
    decode_objects,
    make_input,
    parse_card,
)
from depai_robot.values.error import ConfigError, DeviceFailedError

_MODEL_BYTES_MAX = 512 * 2**20
_CARD_BYTES_MAX = 2**18


class OnnxObjectDetector:
    """Boxes with classes from frames. Use from one thread at a time."""

    def __init__(self, card_file: Path, *, settings: RuntimeSettings | None = None) -> None:
        """Loads the model that the card names, from the very bytes whose hash it gives.

        Raises:
            ConfigError: a file is missing, damaged or of another form; or no provider runs it.
        """
        settings = settings or RuntimeSettings()
        self.card: ObjectCard = parse_card(
            _read(card_file, _CARD_BYTES_MAX).decode("utf-8", "replace"), str(card_file)
        )
        path = card_file.with_name(self.card.model)
        data = _read(path, _MODEL_BYTES_MAX)
        seen = hashlib.sha256(data).hexdigest()
        if seen != self.card.sha256:
            raise ConfigError(f"{path}: sha256 is {seen}, {card_file.name} expects {self.card.sha256}")
        refusals: list[str] = []
        for provider in settings.provider_names():
            if refusals and settings.fallback == "fail":
                break
            try:
                self._session = self._open(path, data, provider, settings)
            except (ConfigError, DeviceFailedError) as error:
                refusals.append(f"{provider}: {error}")
                continue
            self.refusals = tuple(refusals)
            return
        raise ConfigError(f"no execution provider runs {path}; {'; '.join(refusals)}")

    def _open(self, path: Path, data: bytes, provider: str, settings: RuntimeSettings) -> ModelSession:
        shape = self.card.input.shape()
        session = ModelSession(
            str(path),
            data,
            inputs=[TensorSpec(self.card.input.name, shape)],
            outputs=[TensorSpec(name, ()) for name in self._output_names()],
            provider=provider,
            settings=settings,
            strict=False,
        )
        # One picture of nothing: it warms up, and what comes out must be of the card's form.
        empty = np.zeros(shape, np.float32)
        values = dict(zip(self._output_names(), session.run({self.card.input.name: empty}), strict=True))
        decode_objects(
            values, self.card, width_px=self.card.input.width_px, height_px=self.card.input.height_px
        )
        return session

    @property
    def model_sha256(self) -> str:
        """Of the model's bytes."""
        return self.card.sha256

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._session.provider

    @property
    def runtime(self) -> str:
        """Name and version of the runtime."""
        return f"onnxruntime {runtime_version()}"

    def detect(self, frame: Frame) -> tuple[SeenObject, ...]:
        """Objects in the frame, best first.

        Raises:
            DeviceFailedError: the runtime failed, or gave what is not finite or of another form.
        """
        outputs = self._run(make_input(frame.image, self.card))
        height_px, width_px = frame.image.shape[:2]
        return decode_objects(outputs, self.card, width_px=width_px, height_px=height_px)

    def _output_names(self) -> tuple[str, ...]:
        output = self.card.output
        return (output.map,) if isinstance(output, MapForm) else (output.boxes, output.scores, output.classes)

    def _run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        values = self._session.run({self.card.input.name: tensor})
        return dict(zip(self._output_names(), values, strict=True))


def _read(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
    if len(data) > size_max:
        raise ConfigError(f"{path} is longer than the {size_max} bytes expected")
    return data
