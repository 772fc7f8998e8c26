"""Writes ONNX files, node by node."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

# Both are known to every onnxruntime that is allowed.
OPSET, IR_VERSION = 17, 8


class Net:
    """A network that reads ``image``. Every method that adds a node returns the name of its result."""

    def __init__(self, shape, seed=0):
        self.shape, self.random = shape, np.random.default_rng(seed)
        self.nodes, self.constants = [], []

    def constant(self, values):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weights(self, *shape):
        """Random ones, smaller the more of them go into one result."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant((self.random.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32))

    def bias(self, n):
        return self.constant((0.1 * self.random.normal(size=n)).astype(np.float32))

    def node(self, op_type, *reads, n_outputs=1, **attributes):
        name = f"{op_type.lower()}{len(self.nodes)}"
        outputs = [name, *(f"{name}.{i}" for i in range(1, n_outputs))]
        self.nodes.append(helper.make_node(op_type, reads, outputs, name=name, **attributes))
        return name if n_outputs == 1 else outputs

    def conv(self, read, c_in, c_out, kernel=3, group=1, **attributes):
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        weights = self.weights(c_out, c_in // group, *size)
        attributes.setdefault("pads", [size[0] // 2, size[1] // 2] * 2)
        return self.node("Conv", read, weights, self.bias(c_out), group=group, **attributes)

    def norm(self, read, n):
        """A batch normalisation with the statistics of some training."""
        scale, deviation = (self.random.uniform(0.5, 1.5, n).astype(np.float32) for _ in range(2))
        parameters = [self.constant(scale), self.bias(n), self.bias(n), self.constant(deviation)]
        return self.node("BatchNormalization", read, *parameters)

    def head(self, read, channels, classes=5):
        """Means of the channels, and a fully connected layer as PyTorch exports it."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", read), axis=1)
        return self.node("Gemm", flat, self.weights(classes, channels), self.bias(classes), transB=1)

    def model(self, *outputs, opset=OPSET):
        """The file; ``outputs`` are the last result if none are given."""
        outputs = outputs or self.nodes[-1].output[:1]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)

