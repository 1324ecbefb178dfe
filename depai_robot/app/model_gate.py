"""Which models a robot may run: a candidate measured against the current ones on a named data set, and signed for.

The report is JSON in a compact JWS (ES256K) by the key of whoever measured, with the hashes of data and models, all
figures, the limits and the versions that computed them. A robot that is told to demand one loads models only with a
report of exactly their hash that passed and was signed by a key it trusts. Anyone with the same data, models and
versions can compute the figures again.
"""

import platform
from pathlib import Path
from typing import Annotated, Literal

import cv2
import msgspec
import numpy as np
from msgspec import Meta, Struct

from depai_robot import __version__
from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.adapters.onnx_session import RuntimeSettings
from depai_robot.app.model_data import DataSet
from depai_robot.app.model_eval import OPENCV_SEED, judge_frame
from depai_robot.app.sealing import Sealer
from depai_robot.charging.envelope import RefusedMessageError, open_bytes
from depai_robot.perception.dock import DockModel
from depai_robot.perception.manifest import require_dock
from depai_robot.ports import Signer
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address, address_to_hex

REPORT_NAME = "report.jws"
CHAIN_ID = 1
"""A did:pkh names a chain; a key's address is the same on every one, and reports are of none."""

_REPORT_BYTES_MAX = 2**16
_Share = Annotated[float, Meta(ge=0, le=1)]
_Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """What one set of models did with the frames, each by itself.

    Attributes:
        models_sha256: of the manifest.
        name: of the set, for people.
        docks: frames with a dock.
        usable: published within max(5 cm, 5 % of the range) and 10 degrees of yaw.
        wrong: published, with a dock in view, and not usable.
        rooms: frames without a dock.
        false: of these, published.
        position_p95_mm: of the published poses; 0 when there are none.
        yaw_p95_deg: likewise.
        usable_by_condition: (usable, frames) of each.
    """

    models_sha256: _Hash
    name: str
    docks: int
    usable: int
    wrong: int
    rooms: int
    false: int
    position_p95_mm: float
    yaw_p95_deg: float
    usable_by_condition: dict[str, tuple[int, int]]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a candidate must keep; shares of the frames.

    Attributes:
        frames_min: fewer frames with a dock prove nothing.
        usable_min: least share of usable poses.
        usable_drop_max: how much less than the current models' is allowed, over all and in each condition.
        wrong_max: largest share of wrong poses; nor more than the current models have.
        false_max: largest share of docks seen where none is; nor more than the current models have.
    """

    frames_min: Annotated[int, Meta(ge=1)] = 100
    usable_min: _Share = 0.9
    usable_drop_max: _Share = 0.01
    wrong_max: _Share = 0.005
    false_max: _Share = 0.002


class Check(Struct, frozen=True, forbid_unknown_fields=True):
    """One limit: what was seen, and whether it is kept."""

    name: str
    seen: float
    limit: float
    passed: bool


class Report(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed.

    Attributes:
        kind: of this form.
        data_sha256: of the data set.
        data_name: its folder's name, for people.
        made_s: Unix seconds.
        candidate: its figures.
        current: of the models that are in use.
        limits: that the candidate had to keep.
        checks: each of them.
        passed: all of them.
        provider: execution provider of both.
        threads: of an inference.
        seed: of OpenCV's random numbers.
        versions: of everything that computes.
        machine: processor family.
    """

    kind: Literal["depai-model-report-1"] = "depai-model-report-1"
    data_sha256: _Hash
    data_name: str
    made_s: int
    candidate: Metrics
    current: Metrics
    limits: Limits
    checks: list[Check]
    passed: bool
    provider: str
    threads: int
    seed: int
    versions: dict[str, str]
    machine: str


def measure(models: Path, data: DataSet, dock: DockModel, settings: RuntimeSettings) -> Metrics:
    """Every frame by itself: search, pose, gate, sharpening; no tracker, which would hide single errors.

    Raises:
        ConfigError: the models are refused, or an image is no image.
    """
    cv2.setNumThreads(1)
    cv2.setRNGSeed(OPENCV_SEED)
    detector = OnnxDetector(models, settings=settings)
    require_dock(detector.manifest, dock)
    outcomes = [judge_frame(detector, dock, item) for item in data]
    docks = [o for o in outcomes if o.range_m is not None]
    rooms = [o for o in outcomes if o.range_m is None]
    published = [o for o in docks if o.published]
    by_condition: dict[str, tuple[int, int]] = {}
    for outcome in docks:
        usable, frames = by_condition.get(outcome.condition, (0, 0))
        by_condition[outcome.condition] = (usable + outcome.usable, frames + 1)

    def high(values: list[float]) -> float:
        return round(float(np.percentile(values, 95)), 4) if values else 0.0

    return Metrics(
        models_sha256=detector.model_sha256,
        name=detector.manifest.name,
        docks=len(docks),
        usable=sum(o.usable for o in docks),
        wrong=sum(not o.usable for o in published),
        rooms=len(rooms),
        false=sum(o.published for o in rooms),
        position_p95_mm=high([1000 * o.position_m for o in published]),
        yaw_p95_deg=high([abs(float(np.degrees(o.yaw_rad))) for o in published]),
        usable_by_condition=dict(sorted(by_condition.items())),
    )


def compare(candidate: Metrics, current: Metrics, limits: Limits) -> list[Check]:
    """Each limit, kept or not."""

    def share(hits: int, count: int) -> float:
        return hits / count if count else 0.0

    def least(name: str, seen: float, limit: float) -> Check:
        return Check(name, round(seen, 6), round(limit, 6), seen >= limit - 1e-9)

    def most(name: str, seen: float, limit: float) -> Check:
        return Check(name, round(seen, 6), round(limit, 6), seen <= limit + 1e-9)

    usable, before = share(candidate.usable, candidate.docks), share(current.usable, current.docks)
    wrong, before_wrong = share(candidate.wrong, candidate.docks), share(current.wrong, current.docks)
    false, before_false = share(candidate.false, candidate.rooms), share(current.false, current.rooms)
    checks = [
        least("frames with a dock", candidate.docks, limits.frames_min),
        least("usable", usable, limits.usable_min),
        least("usable, against the current models", usable, before - limits.usable_drop_max),
        most("wrong", wrong, limits.wrong_max),
        most("wrong, against the current models", wrong, before_wrong),
        most("false", false, limits.false_max),
        most("false, against the current models", false, before_false),
    ]
    for condition, (hits, count) in candidate.usable_by_condition.items():
        hits_before, count_before = current.usable_by_condition.get(condition, (0, 0))
        floor = share(hits_before, count_before) - limits.usable_drop_max
        checks.append(least(f"usable, {condition}, against the current models", share(hits, count), floor))
    return checks


def make_report(
    candidate: Path,
    current: Path,
    data: DataSet,
    *,
    dock: DockModel,
    data_name: str,
    limits: Limits,
    settings: RuntimeSettings,
    now_s: int,
) -> Report:
    """Measures both sets on the same frames, one after the other, and compares.

    Raises:
        ConfigError: a set is refused, or an image is no image.
    """
    after = measure(candidate, data, dock, settings)
    before = measure(current, data, dock, settings)
    checks = compare(after, before, limits)
    return Report(
        data_sha256=data.sha256,
        data_name=data_name,
        made_s=now_s,
        candidate=after,
        current=before,
        limits=limits,
        checks=checks,
        passed=all(check.passed for check in checks),
        provider=settings.provider_names()[0],
        threads=settings.threads,
        seed=OPENCV_SEED,
        versions=_versions(),
        machine=platform.machine(),
    )


def seal_report(report: Report, signer: Signer) -> str:
    """The report as a compact JWS."""
    return Sealer(CHAIN_ID, signer, None, None).seal_bytes(msgspec.json.encode(report))


def open_report(token: bytes | str) -> tuple[Address, Report]:
    """Who signed, and what.

    Raises:
        ConfigError: no JWS of this form, a signature that does not fit, or another document.
    """
    if len(token) > _REPORT_BYTES_MAX:
        raise ConfigError(f"a report has at most {_REPORT_BYTES_MAX} bytes, got {len(token)}")
    try:
        signer, data = open_bytes(token, chain_id=CHAIN_ID)
        return signer, msgspec.json.decode(data, type=Report)
    except RefusedMessageError as error:
        raise ConfigError(f"model report: {error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"model report: signed, but not a report: {error}") from error


def require_report(path: Path, models_sha256: str, trusted: tuple[Address, ...]) -> Report:
    """The report that lets these models run.

    Raises:
        ConfigError: there is none, or it is of other models, did not pass, or its key is not trusted.
    """
    try:
        with path.open("rb") as file:
            token = file.read(_REPORT_BYTES_MAX + 1).strip()
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror or error}; this robot runs only models with a report: "
            "depai-robot model gate"
        ) from error
    signer, report = open_report(token)
    if signer not in trusted:
        keys = ", ".join(address_to_hex(key) for key in trusted)
        raise ConfigError(
            f"{path} is signed by {address_to_hex(signer)}, expected one of the trusted keys {keys}"
        )
    if report.candidate.models_sha256 != models_sha256:
        raise ConfigError(
            f"{path} is of models {report.candidate.models_sha256}, these are {models_sha256}; "
            "measure these: depai-robot model gate"
        )
    # The word "passed" is the signer's; the checks are counted again.
    if not report.passed or not all(check.passed for check in report.checks):
        failed = ", ".join(check.name for check in report.checks if not check.passed)
        raise ConfigError(f"{path}: these models did not pass: {failed or 'by the report itself'}")
    return report


def _versions() -> dict[str, str]:
    from depai_robot.adapters.onnx_session import runtime_version

    return {
        "depai_robot": __version__,
        "onnxruntime": runtime_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
