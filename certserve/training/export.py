"""A trained network -> the same network as an ONNX file, so that serving it needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from certserve.backends.architectures import Block, ResidualNetwork
from certserve.backends.autoencoders import AutoencoderNetwork

__all__ = ["autoencoder_to_onnx", "to_onnx"]

_OPSET = 17
_IR_VERSION = 8  # the oldest that carries opset 17, so that older runtimes read the file too


def to_onnx(network: ResidualNetwork, name: str) -> bytes:
    """An ONNX file: `input` float32 (batch, channels, height, width) -> `logits` float32 (batch, classes).

    The graph is put together by hand, so that the file holds nothing but the network, its batch normalisations
    folded into the convolutions.
    """
    folded = network.folded()
    graph = _Graph()
    mean = graph.constant("mean", folded.mean.numpy())
    std = graph.constant("std", folded.std.numpy())
    x = graph.node("Div", [graph.node("Sub", ["input", mean], "centred"), std], "normalised")
    x = graph.node("Relu", [graph.convolve(x, folded.stem.conv, "stem")], "stem.out")
    for index, block in enumerate(folded.blocks):
        assert isinstance(block, Block)
        x = graph.block(x, block, f"block{index}")
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], "features")
    weight = graph.constant("head.weight", folded.head.weight.detach().numpy())
    bias = graph.constant("head.bias", folded.head.bias.detach().numpy())
    graph.node("Gemm", [x, weight, bias], "logits", transB=1)
    return graph.serialised(name, folded.description.shape, "logits", (folded.description.classes,))


def autoencoder_to_onnx(network: AutoencoderNetwork, name: str) -> bytes:
    """An ONNX file: `input` float32 (batch, channels, height, width) -> `image` float32 of the same shape."""
    graph, x = _Graph(), "input"
    for index, layer in enumerate(network.layers):
        x = graph.layer(x, layer, f"layer{index}" if index + 1 < len(network.layers) else "image")
    shape = network.description.shape
    return graph.serialised(name, shape, "image", shape)


class _Graph:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def layer(self, x: str, layer: nn.Module, name: str) -> str:
        """One layer of an autoencoder."""
        if isinstance(layer, nn.Conv2d):
            return self.convolve(x, layer, name)
        if isinstance(layer, nn.BatchNorm2d):
            return self.normalise(x, layer, name)
        if isinstance(layer, nn.AvgPool2d):
            return self.node("AveragePool", [x], name, kernel_shape=[2, 2], strides=[2, 2])
        if isinstance(layer, nn.Upsample):
            scales = self.constant(f"{name}.scales", np.array([1, 1, 2, 2], np.float32))
            nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
            return self.node("Resize", [x, "", scales], name, **nearest)
        return self.node({nn.Sigmoid: "Sigmoid", nn.ReLU: "Relu"}[type(layer)], [x], name)

    def normalise(self, x: str, layer: nn.BatchNorm2d, name: str) -> str:
        """Batch normalisation by its running statistics."""
        values = {"scale": layer.weight, "bias": layer.bias, "mean": layer.running_mean, "var": layer.running_var}
        inputs = []
        for part, value in values.items():
            assert value is not None
            inputs.append(self.constant(f"{name}.{part}", value.detach().numpy()))
        return self.node("BatchNormalization", [x, *inputs], name, epsilon=layer.eps)

    def convolve(self, x: str, conv: nn.Conv2d, name: str) -> str:
        assert conv.bias is not None  # folding gave it one
        weight = self.constant(f"{name}.weight", conv.weight.detach().numpy())
        bias = self.constant(f"{name}.bias", conv.bias.detach().numpy())
        pad, stride, side = int(conv.padding[0]), conv.stride[0], conv.kernel_size[0]
        shape = {"kernel_shape": [side, side], "pads": [pad] * 4, "strides": [stride, stride]}
        return self.node("Conv", [x, weight, bias], name, **shape)

    def block(self, x: str, block: Block, name: str) -> str:
        inner = self.node("Relu", [self.convolve(x, block.first.conv, f"{name}.first")], f"{name}.inner")
        inner = self.convolve(inner, block.second.conv, f"{name}.second")
        if block.shortcut is not None:
            x = self.convolve(x, block.shortcut.conv, f"{name}.shortcut")
        return self.node("Relu", [self.node("Add", [inner, x], f"{name}.sum")], f"{name}.out")

    def serialised(self, name: str, shape: tuple[int, int, int], output: str, lengths: tuple[int, ...]) -> bytes:
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *lengths])]
        body = helper.make_graph(self._nodes, name, inputs, outputs, self._constants)
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(body, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="certserve")
        onnx.checker.check_model(model, full_check=True)
        contents: bytes = model.SerializeToString()
        return contents
