"""The cases of ``onnx.backend.test`` as networks with one image in and one result out.

Their weights are inputs of the graph; here they become constants. Where an operator reads several images, one image that is split holds
them all. A batch of several images becomes that many images.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.backend.test.loader import load_model_tests

KINDS = ["node", "simple", "pytorch-converted", "pytorch-operator"]
# What `pi-convert import` makes operations of, and what it computes in advance.
OPERATORS = set(
    """Add ArgMax AveragePool BatchNormalization Cast Clip Concat Conv Div Dropout Flatten Gather Gemm GlobalAveragePool GlobalMaxPool
    Identity LeakyRelu LogSoftmax MatMul Max MaxPool Mul Neg PRelu Pad ReduceMean Relu Reshape Shape Slice Softmax Split Squeeze Sub Sum
    Transpose Unsqueeze Ceil Constant ConstantOfShape Exp Expand Floor Range Reciprocal Sqrt""".split()
)
OF_SEVERAL = {"Add", "Concat", "Sub", "Sum"}
# A network of these alone computes nothing: a sign is turned before them.
OF_NOTHING = {"Constant", "Dropout", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
# Left to the client, which takes them of the logits.
OF_THE_CLIENT = {"ArgMax", "LogSoftmax", "Softmax"}
# Older operators are converted to this version first.
OPSET = 13


@dataclass
class Case:
    """A network, images (N, C, ...) and what it should make of them (N, values)."""

    name: str
    model: onnx.ModelProto
    images: np.ndarray
    expected: np.ndarray


class Skipped(Exception):
    """A case that is not such a network; the text says why."""


def cases():
    """Every case: a ``Case``, or its name and why it is none."""
    np.random.seed(0)
    with warnings.catch_warnings():
        # Cases of operators that are of no interest here divide by zero as they are made.
        warnings.simplefilter("ignore")
        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    for case in found:
        try:
            yield prepared(case)
        except Skipped as why:
            yield case.name, str(why)


def data(case):
    """Inputs and outputs of the first data set."""
    if case.data_sets is not None:
        return case.data_sets[0]
    folder = Path(case.model_dir, "test_data_set_0")

    def read(kind):
        files = (folder / f"{kind}_{i}.pb" for i in range(len(list(folder.glob(f"{kind}_*.pb")))))
        return [numpy_helper.to_array(onnx.load_tensor(file)) for file in files]

    return read("input"), read("output")


def prepared(case):
    model = onnx.ModelProto()
    model.CopyFrom(case.model or onnx.load(Path(case.model_dir, "model.onnx")))
    graph = model.graph
    if not {node.op_type for node in graph.node} <= OPERATORS:
        raise Skipped("operator")
    if graph.node[-1].op_type in OF_THE_CLIENT:
        raise Skipped("end")
    if not all(value.type.HasField("tensor_type") for value in [*graph.input, *graph.output]):
        raise Skipped("type")
    inputs, outputs = data(case)
    if not inputs:
        raise Skipped("no input")
    if not all(isinstance(a, (np.ndarray, np.generic)) for a in inputs) or inputs[0].dtype != np.float32:
        raise Skipped("type")
    if not 2 <= inputs[0].ndim <= 4:
        raise Skipped("rank")
    if inputs[0].size == 0:
        raise Skipped("empty")
    constants = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in constants]
    images = join(model, names, inputs) if is_of_several(graph, inputs) else one(graph, names, inputs)
    if {node.op_type for node in graph.node} <= OF_NOTHING:
        images = turned(graph, images)
    del graph.value_info[:], graph.output[1:]
    expected = np.asarray(outputs[0])
    if len(images) > 1 and expected.shape[:1] != images.shape[:1]:
        raise Skipped("batch")
    return Case(case.name, modern(model), images, expected.reshape(len(images), -1))


def is_of_several(graph, inputs):
    def outside(array):
        return array.dtype, array.shape[:1] + array.shape[2:]

    return len(inputs) > 1 and graph.node[-1].op_type in OF_SEVERAL and len(set(map(outside, inputs))) == 1


def one(graph, names, inputs):
    """Lets the first input be the image, and all others constants."""
    for name, array in zip(names[1:], inputs[1:]):
        graph.initializer.append(numpy_helper.from_array(array, name))
    set_input(graph, names[0], inputs[0])
    return inputs[0]


def join(model, names, inputs):
    """Lets one image be split into all inputs."""
    graph = model.graph
    sizes = [array.shape[1] for array in inputs]
    if version(model) < 13:
        split = helper.make_node("Split", ["image"], names, axis=1, split=sizes)
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(sizes), "sizes"))
        split = helper.make_node("Split", ["image", "sizes"], names, axis=1)
    graph.node.insert(0, split)
    images = np.concatenate(inputs, axis=1)
    set_input(graph, "image", images)
    return images


def turned(graph, images):
    """Puts a ``Neg`` before all nodes."""
    name = graph.input[0].name
    for node in graph.node:
        for i, read in enumerate(node.input):
            if read == name:
                node.input[i] = "turned"
    graph.node.insert(0, helper.make_node("Neg", [name], ["turned"]))
    return -images


def set_input(graph, name, images):
    constants = {tensor.name for tensor in graph.initializer}
    left = [value for value in graph.input if value.name in constants]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, *images.shape[1:])))
    graph.input.extend(left)


def version(model):
    return next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))


def modern(model):
    if version(model) >= 7:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError as error:
        raise Skipped("old operators without a newer form") from error
