"""An integer or folded float network as ONNX, and back.

Integer layers are written as QDQ: convolutions in float between DequantizeLinear and QuantizeLinear, which ONNX Runtime
and OpenVINO both turn into integer kernels. What is behind them is written with channels last, as these kernels leave
it, and in few nodes, because each costs microseconds. The initializers are the network's own arrays under its own
names, and its structure is in the file's metadata, so that `read` gives the network back: the file describes itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_builder import integer
from model_builder.integer import EPSILON, MIDDLE, SPREAD, Classifier, Layer, Network
from model_builder.model import HEIGHT, WIDTH

INPUT, OUTPUT, PRODUCT = "crops", "logits", "classify/product"
_OPSET = 17
_STRUCTURE = "structure"


def write(network: Network, path: Path) -> None:
    """Write the network: input "crops" uint8 (N, 24, 94, 3), output "logits" float32 (N, T, C), N free."""
    onnx.save(_model(network), path)


def read(path: Path) -> Network:
    """The network that `write` wrote into the file."""
    model = onnx.load(path)
    structure = next((entry.value for entry in model.metadata_props if entry.key == _STRUCTURE), None)
    if structure is None:
        raise ValueError(f"{path} was not written by this builder: it tells no structure of an integer network")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return integer.assemble(structure, {name: array for name, array in arrays.items() if "/" not in name})


class _Graph:
    """Nodes and initializers as they are added; a node's name is that of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def constant(self, name: str, value: integer.Array) -> str:
        """An initializer. Names with "/" are the exporter's own, the others the network's."""
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output


def _model(network: Network) -> Any:
    shapes = {
        name: array.shape
        for name, array in integer.trace(network, np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)).outputs.items()
    }
    graph = _Graph()
    for name, array in integer.arrays(network).items():
        graph.constant(name, array)
    x = _pixels(graph, network.layers[0])
    outputs: dict[str, str] = {}
    for layer in network.layers:
        x = outputs[layer.name] = _layer(graph, layer, x)
    columns = shapes[network.layers[-1].name][2]
    staged = [layer for layer in network.layers if layer.context]
    sums = [_sums(graph, layer, outputs[layer.name], shapes[layer.name][2], columns) for layer in staged]
    cells = [shapes[layer.name][1] * (shapes[layer.name][2] // columns) for layer in staged]
    contexts = _contexts(graph, staged, sums, cells, columns)
    heads = [_sequence(graph, outputs[layer.name], layer.name) for layer in network.layers[:-3:-1]]
    _classify(graph, network.classifier, [*heads, contexts])
    classes = len(network.classifier.bias)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "lprnet",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ("N", HEIGHT, WIDTH, 3))],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ("N", columns, classes))],
            list(graph.initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    helper.set_model_props(model, {_STRUCTURE: integer.structure(network)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _pixels(graph: _Graph, first: Layer) -> str:
    """Crops NHWC to normalized planes NCHW; for an integer layer, dequantized ones."""
    planes = graph.add("Transpose", [INPUT], "crops/planes", perm=[0, 3, 1, 2])
    if first.integer:
        scale = graph.constant("crops/scale", np.array(first.input_scale, np.float32))
        (top, left), zero = first.padding, graph.constant("zero/", np.array(0, np.uint8))
        pads = graph.constant("crops/pads", np.array([0, 0, top, left] * 2))
        fill = graph.constant("crops/fill", np.array(first.fill, np.uint8))
        padded = graph.add("Pad", [planes, pads, fill], "crops/padded")
        return graph.add("DequantizeLinear", [padded, scale, zero], "crops/dequantized")
    real = graph.add("Cast", [planes], "crops/real", to=TensorProto.FLOAT)
    middle = graph.constant("crops/middle", np.array(MIDDLE, np.float32))
    spread = graph.constant("crops/spread", np.array(SPREAD, np.float32))
    return graph.add("Div", [graph.add("Sub", [real, middle], "crops/centred"), spread], "crops/normalized")


def _layer(graph: _Graph, layer: Layer, x: str) -> str:
    """One layer; its output is real, through QuantizeLinear and DequantizeLinear where the network has uint8."""
    name = layer.name
    if layer.pool != (1, 1):
        x = graph.add("MaxPool", [x], f"{name}/pool", kernel_shape=layer.pool, strides=layer.pool)
    inputs = [x, _weights(graph, layer), _bias(graph, layer)]
    pads = [0] * 4 if layer.fill else [*layer.padding, *layer.padding]
    kernel = layer.weights.shape[2:]
    y = graph.add("Conv", inputs, f"{name}/convolution", kernel_shape=kernel, strides=layer.stride, pads=pads)
    if layer.output_scale is None:
        return graph.add("Relu", [y], f"{name}/relu")
    scale = graph.constant(f"{name}/scale", np.array(layer.output_scale, np.float32))
    zero = graph.constant("zero/", np.array(0, np.uint8))
    quantized = graph.add("QuantizeLinear", [y, scale, zero], f"{name}/quantized")  # its lower limit of 0 is the ReLU
    return graph.add("DequantizeLinear", [quantized, scale, zero], f"{name}/dequantized")


def _weights(graph: _Graph, layer: Layer) -> str:
    stored = f"{layer.name}.weights"
    if not layer.integer:
        return stored
    return graph.add("DequantizeLinear", [stored, f"{layer.name}.weight_scales"], f"{layer.name}/weights", axis=0)


def _bias(graph: _Graph, layer: Layer) -> str:
    stored = f"{layer.name}.bias"
    if not layer.integer:
        return stored
    scales = graph.constant(f"{layer.name}/steps", layer.scales)
    return graph.add("DequantizeLinear", [stored, scales], f"{layer.name}/bias", axis=0)


def _sums(graph: _Graph, layer: Layer, x: str, width: int, columns: int) -> str:
    """(N, C, H, W) to (N, columns, C): columns' sums, in float.

    They are of the integers themselves: OpenVINO rounds the average of a dequantized tensor to uint8.
    """
    name, real = f"{layer.name}/context", layer.output_scale is None
    x = graph.add("Transpose", [x if real else f"{layer.name}/quantized"], f"{name}/last", perm=[0, 2, 3, 1])
    x = x if real else graph.add("Cast", [x], f"{name}/integers", to=TensorProto.FLOAT)
    rows = graph.add("ReduceSum", [x, graph.constant("context/axis", np.array([1]))], f"{name}/rows", keepdims=0)
    stride = width // columns
    windows = np.repeat(np.eye(columns, dtype=np.float32), stride, axis=1)
    windows = np.pad(windows, ((0, 0), (0, width - columns * stride)))
    return graph.add("MatMul", [graph.constant(f"context/windows{width}", windows), rows], f"{name}/sums")


def _contexts(graph: _Graph, layers: list[Layer], sums: list[str], cells: list[int], columns: int) -> str:
    """Columns' means over the mean of their squares, layer by layer: (N, columns, channels of all layers).

    A column's sum is over so many `cells`. Sums become means together with what else they are multiplied by.
    """
    scales = [1.0 if layer.output_scale is None else layer.output_scale for layer in layers]
    steps = np.array([scale / count for scale, count in zip(scales, cells, strict=True)])
    shares = np.array([1 / (columns * layer.context) for layer in layers])
    member = np.repeat(np.eye(len(layers)), [len(layer.weights) for layer in layers], axis=0)
    into = graph.constant("context/into", (member * shares * steps**2).astype(np.float32))
    out = graph.constant("context/out", (member * steps).T.astype(np.float32))
    joined = graph.add("Concat", sums, "context/sums", axis=2)
    squares = graph.add("Mul", [joined, joined], "context/squares")
    totals = graph.add("ReduceSum", [squares, graph.constant("context/axis", np.array([1]))], "context/totals")
    squares = graph.add("MatMul", [totals, into], "context/mean_squares")
    norms = graph.add("Add", [squares, graph.constant("context/epsilon", np.array(EPSILON))], "context/norms")
    factors = graph.add("MatMul", [graph.add("Reciprocal", [norms], "context/inverse"), out], "context/factors")
    return graph.add("Mul", [joined, factors], "context")


def _sequence(graph: _Graph, x: str, name: str) -> str:
    """(N, C, 1, T) to (N, T, C)."""
    flat = graph.add("Squeeze", [x, graph.constant("classify/axes", np.array([2]))], f"{name}/flat")
    return graph.add("Transpose", [flat], f"{name}/sequence", perm=[0, 2, 1])


def _classify(graph: _Graph, classifier: Classifier, features: list[str]) -> None:
    """Logits (N, T, classes) from the outputs of wide and column and from the contexts (N, T, C), all real.

    Integer weights are only stored as such: ONNX Runtime has no integer kernel that puts out float32, and this is under
    1 % of the work. By Cast and Mul, which it folds when it loads; DequantizeLinear it would compute each time.
    """
    parts = []
    for name, part in (("classify.wide", classifier.wide), ("classify.column", classifier.column)):
        weights = f"{name}.weights"
        if part.integer:
            scales = graph.constant(f"{name}/scales", part.weight_scales[:, None])
            real = graph.add("Cast", [weights], f"{name}/whole", to=TensorProto.FLOAT)
            weights = graph.add("Mul", [real, scales], f"{name}/weights")
        parts.append(weights)
    weights = graph.add("Concat", [*parts, "classify.context"], "classify/weights", axis=1)
    turned = graph.add("Transpose", [weights], "classify/turned", perm=[1, 0])
    joined = graph.add("Concat", features, "classify/features", axis=2)
    product = graph.add("MatMul", [joined, turned], PRODUCT)
    graph.add("Add", [product, "classify.bias"], OUTPUT)
