"""Dock detector node: camera images in, the pose of the dock out, or nothing when unsure.

Subscribes ``camera/image_raw`` and ``camera/camera_info``; publishes ``detected_dock_pose`` (PoseStamped in
the camera's optical frame, stamped with the image's time, x axis into the dock, z up). Inference runs on a
thread of its own, always on the newest image; an old pose is never published again. ``~/detection`` (DiagnosticArray
with the image's stamp, one for each pose) says what made the pose and how sure it is: hash of the models, provider,
confidence, standard deviations. ``~/processed`` (Header) carries the stamp of each image that is done with: the age of
what the robot acts on, and what a simulation waits for.
"""

import threading
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from depai_robot.app.dock_observer import Health
from depai_robot.nodes.convert import image_to_frame, info_to_intrinsics, pose3_to_stamped
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.observation import DockKeypoints, DockObservation
from depai_robot.values.error import DepaiError

Observe = Callable[[Frame], tuple[DockKeypoints | None, DockObservation | None]]
"""One frame through detector, pose, gate and tracker; called on the inference thread only."""

HealthCheck = Callable[[], Health]
"""What diagnostics and detections add; called on the executor's thread and on the inference thread."""

Watcher = Callable[[Frame, DockKeypoints | None, DockObservation | None], None]
"""Sees every frame after its detection, on the inference thread; for recordings."""


class DockDetector(ManagedNode):
    """Runs ``observe`` on each image that arrives while the last one is done."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("image_reliable", True, "false when the camera driver publishes best effort"),
        Setting("enabled", True, "look at images from the start; ~/set_enabled changes it"),
    )

    def __init__(
        self,
        observe: Observe,
        *,
        model: str,
        watcher: Watcher | None = None,
        health: HealthCheck = Health,
    ) -> None:
        super().__init__("dock_detector")
        self._health = health
        self._observe = observe
        self._watcher = watcher
        self._model = model
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def set_up(self) -> None:
        """See ManagedNode."""
        self._enabled = bool(self.value("enabled"))
        self._intrinsics: CameraIntrinsics | None = None
        self._newest: Image | None = None
        self._closing = False
        self._seen = self._published = self._failed = 0
        self._info_error = self._frame_error = ""
        self._poses = self.create_output(PoseStamped, "detected_dock_pose", STATE)
        self._detections = self.create_output(DiagnosticArray, "~/detection", STATE)
        self._processed = self.create_output(Header, "~/processed", STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self.create_subscription(CameraInfo, "camera/camera_info", self._take_info, STATE)
        reliable = bool(self.value("image_reliable"))
        self.create_subscription(
            Image, "camera/image_raw", self._take_image, image_quality(reliable=reliable)
        )
        self.create_service(SetBool, "~/set_enabled", self._set_enabled)
        self.create_timer(1.0, self._report)
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Nothing that was seen before is published later."""
        with self._condition:
            self._newest = None

    def tear_down(self) -> None:
        """Ends the inference thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._condition:
            self._closing = True
            self._condition.notify()
        thread.join(timeout=5.0)

    def _take_info(self, info: CameraInfo) -> None:
        try:
            self._intrinsics = info_to_intrinsics(info)
            self._info_error = ""
        except DepaiError as error:
            # The last good ones are of the camera as it was: poses by them could be wrong.
            self._intrinsics = None
            self._info_error = str(error)

    def _take_image(self, image: Image) -> None:
        if not self.is_active:
            return
        with self._condition:
            self._newest = image
            self._condition.notify()

    def _set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = bool(request.data)
        response.success = True
        response.message = "detecting" if self._enabled else "idle"
        return response

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._newest is None and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                image, self._newest = self._newest, None
            if image is None:
                continue
            if self._enabled and self._intrinsics is not None:
                self._detect(image, self._intrinsics)
            if self.is_active:
                self._processed.publish(image.header)

    def _detect(self, image: Image, intrinsics: CameraIntrinsics) -> None:
        self._seen += 1
        try:
            frame = image_to_frame(image, intrinsics)
            keypoints, observation = self._observe(frame)
            if observation is not None and self.is_active:
                self._published += 1
                self._poses.publish(
                    pose3_to_stamped(observation.dock_in_camera, frame.stamp_ns, image.header.frame_id)
                )
                self._detections.publish(
                    DiagnosticArray(header=image.header, status=[self._tell(observation)])
                )
            if self._watcher is not None:
                self._watcher(frame, keypoints, observation)
            self._frame_error = ""
        except DepaiError as error:
            self._failed += 1
            self._frame_error = str(error)
        except Exception as error:  # noqa: BLE001
            # A library's surprise costs one frame: without this thread the robot would be blind and look healthy.
            self._failed += 1
            self._frame_error = f"{type(error).__name__}: {error}"
            self.get_logger().error(
                f"image of {image.header.stamp.sec}.{image.header.stamp.nanosec:09} s: {self._frame_error}"
            )

    def _tell(self, observation: DockObservation) -> DiagnosticStatus:
        """Where a pose comes from and how sure it is."""
        sigmas = np.sqrt(np.diag(observation.covariance))
        values = [
            ("model_sha256", observation.model_sha256),
            ("confidence", f"{observation.confidence:.4f}"),
            *((f"sigma_{axis}_m", f"{sigma:.4g}") for axis, sigma in zip("xyz", sigmas[:3], strict=True)),
            *((f"sigma_turn_{axis}_rad", f"{s:.4g}") for axis, s in zip("xyz", sigmas[3:], strict=True)),
            *self._health().values,
        ]
        return DiagnosticStatus(
            level=DiagnosticStatus.OK,
            name="dock_detection",
            message="dock seen",
            hardware_id="camera",
            values=[KeyValue(key=key, value=value) for key, value in values],
        )

    def _report(self) -> None:
        health = self._health()
        status = DiagnosticStatus(name=self.status_name("dock_detector"), hardware_id="camera")
        if error := self._info_error or self._frame_error:
            status.level, status.message = DiagnosticStatus.ERROR, error
        elif self._intrinsics is None:
            status.level, status.message = DiagnosticStatus.WARN, "no camera_info yet"
        elif health.warning:
            status.level, status.message = DiagnosticStatus.WARN, health.warning
        else:
            works = self._enabled and self.is_active
            status.level, status.message = DiagnosticStatus.OK, "detecting" if works else "idle"
        status.values = [
            KeyValue(key="model_sha256", value=self._model),
            KeyValue(key="frames", value=str(self._seen)),
            KeyValue(key="poses_published", value=str(self._published)),
            KeyValue(key="frames_failed", value=str(self._failed)),
            *(KeyValue(key=key, value=value) for key, value in health.values),
        ]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
