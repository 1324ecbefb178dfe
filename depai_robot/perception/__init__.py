"""From pixels to the pose of the dock: pure functions on arrays, no I/O, no inference runtime.

May import values only. The ONNX runtime lives in ``adapters``; the ROS node in ``nodes``.
"""
