"""Writes boxes.onnx, a detector of the form ``boxes`` that is all arithmetic.

    python test/data/objects/make_boxes.py

Three fixed boxes, of which the second overlaps the first and the third is of another class; their scores are fixed
shares of the brightest value in the picture, so a black picture has none. Needs the package onnx (extra ``training``).
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

BOXES = np.array([[[8, 8, 24, 56], [10, 8, 26, 56], [40, 4, 60, 12]]], np.float32)
SHARES = np.array([[0.9, 0.8, 0.7]], np.float32)
CLASSES = np.array([[0, 0, 1]], np.int64)

constants = {"fixed_boxes": BOXES, "shares": SHARES, "fixed_classes": CLASSES}
nodes = [
    helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0),
    helper.make_node("Mul", ["shares", "brightest"], ["scores"]),
    helper.make_node("Identity", ["fixed_boxes"], ["boxes"]),
    helper.make_node("Identity", ["fixed_classes"], ["classes"]),
]
graph = helper.make_graph(
    nodes,
    "boxes",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 64, 64))],
    [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, 3, 4)),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 3)),
        helper.make_tensor_value_info("classes", TensorProto.INT64, (1, 3)),
    ],
    [numpy_helper.from_array(value, name) for name, value in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 8
save(model, Path(__file__).with_name("boxes.onnx"))
