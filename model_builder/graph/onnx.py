"""A graph as ONNX, and back.

Integer convolutions are written as QDQ: float convolutions between DequantizeLinear and QuantizeLinear. ONNX Runtime
and OpenVINO turn these into integer kernels. Pooling, upsampling and concatenation are written on uint8. Contexts and
linear maps are written with channels last, as the integer kernels put them out, and in few nodes, because each node
costs microseconds. The initializers are the arrays of the graph under its own names, and its structure is in the
metadata of the file, so that `read` returns the same graph.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_builder.graph import description, ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Node

INPUT, OUTPUT, PRODUCT = "images", "output", "product"  # behind a linear node's name: the node that multiplies
_OPSET = 17
_STRUCTURE = "structure"


def write(graph: Graph, path: Path, *, any_size: bool = False) -> None:
    """Write the graph: input uint8 (N, H, W, C), output float32, N free, and H and W where the graph takes `any_size`.

    A graph with contexts, or whose output has no rows or columns, takes images of its own size alone.
    """
    onnx.save(_Writer(graph).model(any_size), path)


def read(path: Path) -> Graph:
    """The graph that `write` wrote into the file; ValueError for another file."""
    model = onnx.load(path)
    structure = next((entry.value for entry in model.metadata_props if entry.key == _STRUCTURE), None)
    if structure is None:
        raise ValueError(f"{path} was not written by this builder: it tells no structure of a graph")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return description.assemble(structure, {name: array for name, array in arrays.items() if "/" not in name})


def _stored(name: str) -> str:
    """The tensor that holds the output of a graph's node."""
    return f"{name}/output"


class _Writer:
    """ONNX nodes and initializers as they are added; a node's name is that of its output.

    A graph node's output is `_stored` of its name: (N, C, H, W), uint8 where it has a scale; real numbers in `_real`.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._shapes = graph, graph.shapes()
        self._nodes: list[Any] = []
        self._made: set[str] = set()
        self._initializers: dict[str, Any] = {}

    def model(self, any_size: bool) -> Any:
        graph = self._graph
        for name, array in description.arrays(graph).items():
            self._constant(name, array)
        for node in graph.nodes:
            self._write(node)
        *size, classes = self._shapes[graph.output.name]
        shape = ["rows", "columns"] if any_size else [s for axis, s in enumerate(size, 1) if axis not in graph.squeeze]
        height, width, channels = graph.pixels.size
        image = ("H", "W", channels) if any_size else (height, width, channels)
        model = helper.make_model(
            helper.make_graph(
                self._nodes,
                "network",
                [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ("N", *image))],
                [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ("N", *shape, classes))],
                list(self._initializers.values()),
            ),
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=8,
        )
        helper.set_model_props(model, {_STRUCTURE: description.structure(graph)})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """An initializer. Names with "/" are the exporter's own, the others the graph's."""
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(np.array(value, dtype)), name)
        return name

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node, unless it is there already."""
        if output not in self._made:
            self._made.add(output)
            self._nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def _write(self, node: Node) -> None:
        name, taken = _stored(node.name), [_stored(each) for each in node.inputs]
        match node:
            case ops.Pixels():
                self._add("Transpose", [INPUT], name, perm=[0, 3, 1, 2])
            case ops.Convolution():
                self._convolution(node)
            case ops.Linear():
                self._linear(node)
            case ops.MaxPool():
                self._add("MaxPool", taken, name, kernel_shape=node.kernel, strides=node.kernel)
            case ops.AveragePool():
                self._average(node)
            case ops.Upsample():
                factors = self._constant(f"{node.name}/factors", [1, 1, *node.factor], np.float32)
                how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                self._add("Resize", [*taken, "", factors], name, **how)
            case ops.Add():
                self._quantized(self._add("Add", [self._real(each) for each in node.inputs], f"{node.name}/sum"), node)
            case ops.Concatenate():
                self._add("Concat", taken, name, axis=1)
            case ops.Context():
                self._context(node)

    def _zero(self) -> str:
        return self._constant("zero/", 0, np.uint8)

    def _scale(self, node: Node) -> str:
        return self._constant(f"{node.name}/scale", node.scale, np.float32)

    def _real(self, name: str) -> str:
        """A node's output as real numbers."""
        node = self._graph[name]
        if isinstance(node, ops.Pixels):
            real = self._add("Cast", [_stored(name)], f"{name}/real", to=TensorProto.FLOAT)
            middle = self._constant(f"{name}/middle", node.middle, np.float32)
            spread = self._constant(f"{name}/spread", node.spread, np.float32)
            return self._add("Div", [self._add("Sub", [real, middle], f"{name}/centred"), spread], f"{name}/normalized")
        return _stored(name) if node.scale is None else self._dequantized(_stored(name), node, f"{name}/dequantized")

    def _dequantized(self, x: str, node: Node, output: str) -> str:
        return self._add("DequantizeLinear", [x, self._scale(node), self._zero()], output)

    def _quantized(self, y: str, node: Node) -> None:
        """`node`'s output of its real numbers `y`. The lower limit of QuantizeLinear, 0, is a ReLU."""
        if node.scale is None:
            relu = isinstance(node, ops.Convolution) and node.relu
            self._add("Relu" if relu else "Identity", [y], _stored(node.name))
            return
        self._add("QuantizeLinear", [y, self._scale(node), self._zero()], _stored(node.name))

    def _convolution(self, node: ops.Convolution) -> None:
        name, pads = node.name, [*node.padding, *node.padding]
        x = node.inputs[0]
        source = self._graph[x]
        weights, bias = f"{name}.weights", f"{name}.bias"
        if node.weights.integer:
            weights = self._add("DequantizeLinear", [weights, f"{name}.weight_scales"], f"{name}/weights", axis=0)
            steps = self._constant(f"{name}/steps", self._graph.steps(x, node.weights))
            bias = self._add("DequantizeLinear", [bias, steps], f"{name}/bias", axis=0)
        if isinstance(source, ops.Pixels) and node.weights.integer:
            fill = self._constant(f"{x}/fill", source.fill, np.uint8)
            border = self._constant(f"{name}/pads", [0, 0, *node.padding] * 2)
            padded = self._add("Pad", [_stored(x), border, fill], f"{name}/in")
            x, pads = self._dequantized(padded, source, f"{name}/dequantized_in"), [0] * 4
        else:
            x = self._real(x)
        kernel = node.weights.values.shape[2:]
        inputs = [x, weights, bias]
        y = self._add("Conv", inputs, f"{name}/convolution", kernel_shape=kernel, strides=node.stride, pads=pads)
        self._quantized(y, node)

    def _average(self, node: ops.AveragePool) -> None:
        """Sums of integers by a convolution with ones, which is exact in float; then the mean, rounded."""
        name, kernel, (source,) = node.name, node.kernel, node.inputs
        if node.scale is None:
            self._add("AveragePool", [_stored(source)], _stored(name), kernel_shape=kernel, strides=kernel)
            return
        channels = self._shapes[name][2]
        real = self._add("Cast", [_stored(source)], f"{name}/integers", to=TensorProto.FLOAT)
        ones = self._constant(f"{name}/ones", np.ones((channels, 1, *kernel), np.float32))
        sums = self._add("Conv", [real, ones], f"{name}/sums", kernel_shape=kernel, strides=kernel, group=channels)
        factor = self._constant(f"{name}/factor", 1 / (kernel[0] * kernel[1]), np.float32)
        mean = self._add("Round", [self._add("Mul", [sums, factor], f"{name}/mean")], f"{name}/rounded")
        self._add("Cast", [mean], _stored(name), to=TensorProto.UINT8)

    def _sums(self, node: ops.Context, source: str) -> str:
        """(N, C, H, W) to (N, columns, C): columns' sums, in float.

        They are of the integers themselves: OpenVINO rounds the average of a dequantized tensor to uint8.
        """
        name, width = f"{node.name}/{source}", self._shapes[source][1]
        x = self._add("Transpose", [_stored(source)], f"{name}/last", perm=[0, 2, 3, 1])
        if self._graph[source].scale is not None:
            x = self._add("Cast", [x], f"{name}/integers", to=TensorProto.FLOAT)
        rows = self._add("ReduceSum", [x, self._constant("context/axis", [1])], f"{name}/rows", keepdims=0)
        stride = width // node.columns
        windows = np.repeat(np.eye(node.columns, dtype=np.float32), stride, axis=1)
        windows = np.pad(windows, ((0, 0), (0, width - node.columns * stride)))
        return self._add("MatMul", [self._constant(f"windows/{width}", windows), rows], f"{name}/sums")

    def _context(self, node: ops.Context) -> None:
        """Columns' means over the mean of their squares, input by input: (N, columns, channels of all).

        A column's sum is over `cells`. Sums become means together with what else they are multiplied by.
        """
        shapes = [self._shapes[source] for source in node.inputs]
        scales = [self._graph[source].scale or 1.0 for source in node.inputs]
        cells = [height * (width // node.columns) for height, width, _ in shapes]
        steps = np.array([scale / count for scale, count in zip(scales, cells, strict=True)])
        shares = np.array([1 / (node.columns * channels) for channels in node.channels])
        member = np.repeat(np.eye(len(shapes)), [channels for _, _, channels in shapes], axis=0)
        into = self._constant("context/into", member * shares * steps**2, np.float32)
        out = self._constant("context/out", (member * steps).T, np.float32)
        joined = self._add("Concat", [self._sums(node, source) for source in node.inputs], "context/sums", axis=2)
        squares = self._add("Mul", [joined, joined], "context/squares")
        totals = self._add("ReduceSum", [squares, self._constant("context/axis", [1])], "context/totals")
        squares = self._add("MatMul", [totals, into], "context/mean_squares")
        epsilon = self._constant("context/epsilon", node.epsilon, np.float32)
        norms = self._add("Add", [squares, epsilon], "context/norms")
        factors = self._add("MatMul", [self._add("Reciprocal", [norms], "context/inverse"), out], "context/factors")
        self._add("Mul", [joined, factors], _stored(node.name))

    def _last(self, source: str) -> str:
        """(N, C, H, W), real, with channels last and without the axes that the output does not have."""
        if isinstance(self._graph[source], ops.Context):
            return _stored(source)
        x = self._add("Transpose", [self._real(source)], f"{source}/last", perm=[0, 2, 3, 1])
        if not self._graph.squeeze:
            return x
        return self._add("Squeeze", [x, self._constant("squeeze/", self._graph.squeeze)], f"{source}/squeezed")

    def _linear(self, node: ops.Linear) -> None:
        """One product of all inputs, real and with channels last.

        Integer weights are stored as int8 and multiplied in float: ONNX Runtime has no integer kernel with float32
        outputs, and this is under 1 % of the work. Cast and Mul make them real, not DequantizeLinear, because ONNX
        Runtime computes these once when it loads.
        """
        parts = []
        for name, part in zip(description.part_names(node), node.parts, strict=True):
            weights = f"{name}.weights"
            if part.scales is not None:
                scales = self._constant(f"{name}/scales", part.scales[:, None])
                real = self._add("Cast", [weights], f"{name}/whole", to=TensorProto.FLOAT)
                weights = self._add("Mul", [real, scales], f"{name}/weights")
            parts.append(weights)
        weights = self._add("Concat", parts, f"{node.name}/weights", axis=1)
        turned = self._add("Transpose", [weights], f"{node.name}/turned", perm=[1, 0])
        joined = self._add("Concat", [self._last(name) for name in node.inputs], f"{node.name}/features", axis=-1)
        product = self._add("MatMul", [joined, turned], f"{node.name}/{PRODUCT}")
        self._add("Add", [product, f"{node.name}.bias"], OUTPUT)
