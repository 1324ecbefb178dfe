"""OpenCV's ArUco and a tuned AprilTag 3 as dock detectors: the peers of ``bench.perception``.

Both read tag36h11; the pose is of the decal's four corners by IPPE, the better of its two solutions. Look-alikes carry
tags too: of several the one nearest to the truth counts, and one farther than a metre from it is passed over, which
favours the peers: they are not asked to tell a dock's tag from another.
"""

import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from depai_robot.app.model_data import LabelledFrame
from depai_robot.app.model_eval import Judged, compare
from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import Frame
from training.textures import TAG_IDS

DECISION_MARGIN_MIN, HAMMING_MAX = 5.0, 1
OTHER_TAG_M = 1.0
DOCK_IN_TAG = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""Columns: the dock's axes (into the dock, left, up) in the tag's (right, up, out of its face)."""


class Aruco:
    """``cv2.aruco`` with corners refined to sub-pixels."""

    name = "aruco"

    def __init__(self) -> None:
        settings = cv2.aruco.DetectorParameters()
        settings.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
        self._detector = cv2.aruco.ArucoDetector(dictionary, settings)

    def corners(self, grey: np.ndarray) -> list[np.ndarray]:
        """(4, 2) of each of the dock's tags: top left, top right, bottom right, bottom left of the upright tag."""
        found, ids, _ = self._detector.detectMarkers(grey)
        ids = [] if ids is None else ids.ravel()
        return [quad[0] for quad, tag in zip(found, ids, strict=True) if tag in TAG_IDS]


class AprilTag:
    """AprilTag 3 at full resolution, one thread; weak and corrected readings are kept if they are likely right."""

    name = "apriltag"

    def __init__(self) -> None:
        try:
            from pupil_apriltags import Detector
        except ImportError as error:
            raise SystemExit("the peer AprilTag 3 is not installed: pip install -e '.[bench]'") from error
        self._detector = Detector(families="tag36h11", nthreads=1, quad_decimate=1.0)

    def corners(self, grey: np.ndarray) -> list[np.ndarray]:
        """As :meth:`Aruco.corners`."""
        good = [
            tag
            for tag in self._detector.detect(grey)
            if tag.decision_margin > DECISION_MARGIN_MIN
            and tag.hamming <= HAMMING_MAX
            and tag.tag_id in TAG_IDS
        ]
        # It counts from the bottom left, and from the pixel's corner instead of its centre.
        return [tag.corners[::-1] - 0.5 for tag in good]


@lru_cache(maxsize=1)
def make_peers() -> tuple[Any, ...]:
    """Both, once for a process: after AprilTag's detector was given back, a heap was seen corrupted."""
    return Aruco(), AprilTag()


def tag_poses(peer: Any, dock: DockModel, frame: Frame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotation (3, 3) and position (3,) in m of the dock in the camera, by each of its tags that is read."""
    half, lens = dock.decal.size_m / 2, frame.intrinsics
    square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
    poses = []
    for quad in peer.corners(frame.grey):
        found, turn, position = cv2.solvePnP(
            square,
            quad.astype(np.float64)[:, None],
            lens.matrix(),
            np.array(lens.distortion),
            flags=cv2.SOLVEPNP_IPPE_SQUARE,
        )
        if found:
            poses.append((cv2.Rodrigues(turn)[0] @ DOCK_IN_TAG, position[:, 0]))
    return poses


def judge_peer(peer: Any, dock: DockModel, item: LabelledFrame) -> Judged:
    """As ``judge_frame`` does with the models; for frames with a dock."""
    # A frame of its own: what another detector has made of it already would cost this one nothing.
    frame, truth = replace(item.frame), item.dock_in_camera
    if truth is None:
        raise ValueError("peers are judged on frames with a dock")
    begin = time.process_time()
    poses = [
        (rotation, position_m)
        for rotation, position_m in tag_poses(peer, dock, frame)
        if float(np.linalg.norm(position_m - truth.position_m)) < OTHER_TAG_M
    ]
    cpu_ms = (time.process_time() - begin) * 1000
    range_m = float(np.linalg.norm(truth.position_m))
    if not poses:
        return Judged(item.condition, range_m, published=False, cpu_ms=cpu_ms)
    rotation, position = min(poses, key=lambda pose: float(np.linalg.norm(pose[1] - truth.position_m)))
    return compare(item.condition, truth, rotation, position, cpu_ms=cpu_ms)
