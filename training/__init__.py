"""Makes the dock's textures, the synthetic frames, and from them the models in ``models/``.

Not installed with the package. Needs the ``training`` extra (torch, onnx) beside what the package needs.
"""
