"""A network of ``training.network`` with the weights of an ONNX file that was exported from it.

The export folds each batch normalisation into the convolution before it. To go on with training they are unfolded
again, about the statistics of a batch: the network computes what the file does, and can learn on.
"""

from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from training.network import Finder, Keypoints

Net = TypeVar("Net", Finder, Keypoints)


def _module_of(node: str) -> str:
    """``/fine/fine.1/fine.1.0/body/body.0/Conv`` is of the module ``fine.1.0.body.0``."""
    names: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if names and part.startswith(f"{names[-1]}."):
            names[-1] = part  # it numbers what lies in the one before it
        else:
            names.append(part)
    return ".".join(names)


def network_from(path: Path, net: Net, sample: Tensor) -> Net:
    """A network with the weights of a file, in training form.

    Args:
        path: an ONNX file of ``training.export``.
        net: a network of that kind; changed in place and given back.
        sample: a batch of inputs, whose statistics the normalisations get.

    Raises:
        ValueError: the file is of another network.
    """
    graph = onnx.load(path).graph
    arrays = {i.name: torch.from_numpy(np.array(numpy_helper.to_array(i))) for i in graph.initializer}
    modules = dict(net.named_modules())
    folded: dict[str, tuple[Tensor, Tensor]] = {}
    left = set(arrays)
    for node in graph.node:
        if node.op_type == "Conv":
            name = _module_of(node.name)
            if name not in modules:
                raise ValueError(f"{path} has a convolution {node.name}, the network has none of that name")
            folded[name] = (arrays[node.input[1]], arrays[node.input[2]])
            left -= {node.input[1], node.input[2]}
    state = net.state_dict()
    for name in sorted(left & set(state)):
        state[name] = arrays[name]
        left.discard(name)
    # A product with a matrix is exported without its name, the matrix turned.
    for name in sorted(name for name in left if arrays[name].ndim == 2):
        if "spread.weight" not in state or arrays[name].shape != state["spread.weight"].T.shape:
            raise ValueError(f"{path} has a matrix of {tuple(arrays[name].shape)}, the network has none such")
        state["spread.weight"] = arrays[name].T.clone()
    offsets: dict[str, Tensor] = {}
    for name, (weight, bias) in folded.items():
        if state[f"{name}.weight"].shape != weight.shape:
            raise ValueError(f"{path}: {name} is {tuple(weight.shape)}, expected another shape")
        state[f"{name}.weight"] = weight
        if f"{name}.bias" in state:
            state[f"{name}.bias"] = bias
        else:
            head, number = name.rsplit(".", maxsplit=1)
            offsets[f"{head}.{int(number) + 1}"] = bias
    net.load_state_dict(state)
    _unfold(net, offsets, sample)
    return net


def _unfold(net: nn.Module, offsets: dict[str, Tensor], sample: Tensor) -> None:
    """Gives each normalisation the statistics of its input, and the weights that make it add only the offset."""
    modules = dict(net.named_modules())

    def take(module: nn.Module, inputs: tuple[Tensor, ...], offset: Tensor) -> None:
        mean = inputs[0].mean(dim=(0, 2, 3))
        variance = inputs[0].var(dim=(0, 2, 3), unbiased=False).clamp(min=1e-4)
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.data.copy_(torch.sqrt(variance + module.eps))
        module.bias.data.copy_(offset + mean)

    handles = [
        modules[name].register_forward_pre_hook(lambda m, i, o=offset: take(m, i, o))
        for name, offset in offsets.items()
    ]
    net.eval()
    with torch.no_grad():
        net(sample)
    for handle in handles:
        handle.remove()
