"""Writes the few frames that the tests keep: ``python -m training.frames``. Their split trains nothing."""

import json

import cv2

from training.scene import Painter, Request
from training.textures import ROOT

FOLDER = ROOT / "test" / "data" / "dock_frames"
WANTED = (
    ("near", Request("clean", 0.42, 15.0, 5.0)),
    ("middle", Request("clean", 1.2, 40.0, 20.0)),
    ("far", Request("clean", 4.0, 30.0, 20.0)),
    ("blurred", Request("blur8", 1.6, 30.0, 15.0)),
    ("dark", Request("low_light", 1.6, 30.0, 15.0)),
    ("empty_room", Request("clean", negative=True)),
    ("empty_room_dark", Request("low_light", negative=True)),
)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    painter = Painter(1, "kept")
    truth = {}
    for index, (name, request) in enumerate(WANTED):
        sample = painter.sample(index, request)
        cv2.imwrite(str(FOLDER / f"{name}.png"), sample.image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        truth[name] = {"focal_px": sample.camera.focal_px, "dock": None}
        if sample.docks:
            dock = sample.docks[0]
            truth[name]["dock"] = {
                "position_m": dock.position_m.round(6).tolist(),
                "rotation": dock.rotation.round(9).tolist(),
            }
    (FOLDER / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
