"""Draws a tag36h11 decal on a light panel exactly: each pixel is the mean of what rays through it see."""

import cv2
import numpy as np

from depai_robot.perception.dock import Base, Decal, DockModel, Pads, Panel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockKeypoints

PLAIN = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
LENS = CameraIntrinsics(640, 480, 460.0, 470.0, 315.0, 244.0, (-0.32, 0.11, 0.001, -0.0015, -0.012))


def rectangle(x, half_width, top, bottom):
    return ((x, half_width, top), (x, -half_width, top), (x, -half_width, bottom), (x, half_width, bottom))


DOCK = DockModel(
    Panel(0.4, 0.3, 0.02, 0.25),
    Base(0.4, 0.08, 0.15),
    Decal(0.16, "tag36h11"),
    Pads(-0.15, -0.19, 0.06, 0.14),
    rectangle(0.0, 0.2, 0.15, -0.15)
    + rectangle(-0.15, 0.2, -0.15, -0.23)
    + rectangle(0.0, 0.08, 0.08, -0.08),
)


def upright(yaw_rad):
    """Dock axes (x away from the camera, y left, z up) in the frame of a level camera."""
    forward = np.array([np.sin(yaw_rad), 0.0, np.cos(yaw_rad)])
    up = np.array([0.0, -1.0, 0.0])
    return np.stack([forward, np.cross(up, forward), up], axis=1)


def project(rotation, position, intrinsics=PLAIN, dock=DOCK):
    """(12, 2) pixels of the keypoints."""
    points = dock.points_m() @ rotation.T + position
    lens = np.array(intrinsics.distortion)
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), intrinsics.matrix(), lens)[0][:, 0]


def keypoints_at(pixels, sigma_px=0.5, intrinsics=PLAIN):
    inside = ((pixels > 0) & (pixels < [intrinsics.width_px, intrinsics.height_px])).all(axis=1)
    return DockKeypoints(pixels, np.full(12, sigma_px), inside.astype(float), 0.99)


def draw(
    rotation,
    position,
    intrinsics=PLAIN,
    *,
    black=20.0,
    white=200.0,
    blur_px=0.0,
    size_m=0.16,
    noise=None,
    rays=3,
):
    """(480, 640) uint8: the decal on an endless light panel; only what is near it is drawn."""
    tag = cv2.aruco.generateImageMarker(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11), 3, 8
    ).astype(float)
    corners = np.array(rectangle(0.0, 0.14, 0.14, -0.14)) @ rotation.T + position
    pixels = cv2.projectPoints(
        corners, np.zeros(3), np.zeros(3), intrinsics.matrix(), np.array(intrinsics.distortion)
    )[0][:, 0]
    limit = (intrinsics.width_px, intrinsics.height_px)
    low = np.clip(np.floor(pixels.min(axis=0)).astype(int), 0, limit)
    high = np.clip(np.ceil(pixels.max(axis=0)).astype(int), 0, limit)
    columns, rows = np.arange(low[0], high[0], dtype=float), np.arange(low[1], high[1], dtype=float)
    total = np.zeros((len(rows), len(columns)))
    normal = rotation[:, 0]
    within = (np.arange(rays) + 0.5) / rays - 0.5  # edges are true to a part of a pixel of that size
    for dy in within:
        for dx in within:
            x, y = np.meshgrid(columns + dx, rows + dy)
            places = np.stack([x.ravel(), y.ravel()], axis=1)[:, None]
            sight = cv2.undistortPoints(places, intrinsics.matrix(), np.array(intrinsics.distortion))[:, 0]
            sight = np.concatenate([sight, np.ones((len(sight), 1))], axis=1)
            hits = sight * ((normal @ position) / (sight @ normal))[:, None]
            on_panel = (hits - position) @ rotation  # x into the dock, y left, z up
            column = np.floor((0.5 - on_panel[:, 1] / size_m) * 8).astype(int)
            row = np.floor((0.5 - on_panel[:, 2] / size_m) * 8).astype(int)
            inside = (column >= 0) & (column < 8) & (row >= 0) & (row < 8)
            light = np.where(inside, tag[np.clip(row, 0, 7), np.clip(column, 0, 7)] > 0, True)
            total += light.reshape(total.shape)
    image = np.full((intrinsics.height_px, intrinsics.width_px), white)
    image[low[1] : high[1], low[0] : high[0]] = black + (white - black) * total / rays**2
    if blur_px:
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), blur_px)
    if noise is not None:
        image = image + noise.normal(0, 2.0, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
