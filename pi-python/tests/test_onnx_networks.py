"""Networks of several kinds against onnxruntime, and those of other hands that ONNX's package holds."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from imported import Refused, convert, through
from onnx_net import Net

SHAPE = ["batch", 3, 16, 16]
IMAGES = np.random.default_rng(1).uniform(-2, 2, (8, 3, 16, 16)).astype(np.float32)


def inception():
    net = Net(SHAPE)
    x = net.node("Relu", net.conv("image", 3, 8, kernel=5, strides=[2, 2]))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    branches = [
        net.conv(x, 8, 4, kernel=1),
        net.conv(net.node("Relu", net.conv(x, 8, 4, kernel=1)), 4, 6),
        net.conv(net.conv(x, 8, 4, kernel=(1, 3)), 4, 4, kernel=(3, 1)),
        net.conv(net.node("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4), 8, 2, kernel=1),
        net.conv(net.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1), 8, 2, kernel=1),
    ]
    x = net.node("Relu", net.node("Concat", *branches, axis=1))
    net.node("Softmax", net.head(x, 18), axis=1)
    return net


def inverted_residuals():
    net = Net(SHAPE, 1)
    bounds = [net.constant(np.float32(0)), net.constant(np.float32(6))]
    x = net.node("Clip", net.norm(net.conv("image", 3, 6, strides=[2, 2]), 6), *bounds)
    for stride in (1, 2):
        y = net.node("Clip", net.norm(net.conv(x, 6, 12, kernel=1), 12), *bounds)
        y = net.node("Clip", net.norm(net.conv(y, 12, 12, group=12, strides=[stride] * 2), 12), *bounds)
        y = net.norm(net.conv(y, 12, 6, kernel=1), 6)
        x = net.node("Add", x, y) if stride == 1 else y
    net.head(x, 6)
    return net


def dense():
    net = Net(SHAPE, 2)
    x, channels = net.conv("image", 3, 6), 6
    for block in range(2):
        for _ in range(2):
            y = net.node("Relu", net.norm(x, channels))
            x = net.node("Concat", x, net.conv(y, channels, 4), axis=1)
            channels += 4
        if block == 0:
            x = net.conv(net.node("Relu", net.norm(x, channels)), channels, channels // 2, kernel=1)
            channels //= 2
            x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    net.head(net.node("Relu", net.norm(x, channels)), channels)
    return net


def leaky():
    net = Net(SHAPE, 3)
    # Padding that differs from side to side, in the two ways in which files say so.
    x = net.conv("image", 3, 6, strides=[2, 1], pads=[0, 1, 2, 1])
    x = net.node("LeakyRelu", x, alpha=0.1)
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.node("Conv", x, net.weights(8, 6, 2, 2), net.bias(8), auto_pad="SAME_LOWER", dilations=[1, 1])
    slopes = np.linspace(-0.1, 0.4, 8, dtype=np.float32)
    x = net.node("PRelu", x, net.constant(slopes.reshape(8, 1, 1)))
    x = net.node("PRelu", net.conv(x, 8, 8, dilations=[2, 2], pads=[2] * 4), net.constant(np.full((1, 1, 1), 0.25, np.float32)))
    net.head(x, 8)
    return net


def shuffled():
    net = Net(SHAPE, 4)
    x = net.node("Relu", net.conv("image", 3, 8, strides=[2, 2]))
    left, right = net.node("Split", x, net.constant(np.array([4, 4])), axis=1, n_outputs=2)
    right = net.node("Relu", net.conv(net.conv(right, 4, 4, group=4), 4, 4, kernel=1))
    x = net.node("Concat", left, right, axis=1)
    x = net.node("Reshape", x, net.constant(np.array([-1, 2, 4, 8, 8])))
    x = net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), net.constant(np.array([-1, 8, 8, 8])))
    bounds = [net.constant(np.array([v])) for v in (2, 8, 1, 2)]
    x = net.node("Relu", net.conv(net.node("Slice", x, *bounds), 3, 4, group=1))
    scale = net.constant(np.array([0.5, 1.5, -1, 2], np.float32).reshape(4, 1, 1))
    x = net.node("Sub", net.node("Mul", x, scale), net.node("Relu", net.conv(x, 4, 4)))
    flat = net.node("Flatten", net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    net.node("Gemm", flat, net.weights(5, 64), net.bias(5), transB=1, alpha=0.5, beta=2.0)
    return net


def by_onnxruntime(model, images):
    """The results of ``model`` without a softmax at its end, which the client takes."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    if graph.node[-1].op_type == "Softmax":
        output = helper.make_tensor_value_info(graph.node.pop().input[0], TensorProto.FLOAT, None)
        graph.output[0].CopyFrom(output)
    constants = {tensor.name for tensor in graph.initializer}
    (image,) = (value.name for value in graph.input if value.name not in constants)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {image: images})[0].reshape(len(images), -1)


def compare(model, images, folder, share):
    """``share`` of the largest result is what integers may be off by, beside eight steps of an activation."""
    expected = by_onnxruntime(model, images)
    found = through(model, images, folder)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found.float, expected, rtol=0, atol=1e-4 * largest)
    bound = share * largest + 8 * 0.5**found.activation_bits
    np.testing.assert_allclose(found.integer, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("make", [inception, inverted_residuals, dense, leaky, shuffled])
def test_a_network_computes_what_onnxruntime_computes(make, tmp_path):
    compare(make().model(), IMAGES, tmp_path, 0.03)


def randomised(model):
    """``model`` with random weights; the file makes constant ones, with which it would tell nothing apart."""
    random, graph = np.random.default_rng(0), model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes.update({node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant"})
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    scales, variances = ({node.input[i] for node in norms} for i in (1, 4))
    # Some files multiply and add in nodes of their own.
    factors = {name for node in graph.node if node.op_type == "Mul" for name in node.input}
    scales |= {node.input[0] for node in graph.node if node.op_type == "Unsqueeze" and node.output[0] in factors}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        name, shape = node.output[0], tuple(shapes[node.input[0]])
        if name in variances:
            values = random.uniform(0.8, 1.2, shape)
        elif name in scales:
            values = random.uniform(0.2, 0.8, shape)
        elif len(shape) > 1:
            values = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = 0.1 * random.normal(size=shape)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        graph.node.remove(node)
    return model


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# Operations by kind, and the ReLUs with the comparisons of max pools. VGG-19 is left out: its folder has 558 MB.
IMPORTED = {
    "densenet121": ("3 avg_pool, 62 bias, 58 concat, 121 conv2d, 1 global_avg_pool, 121 masked_relu, 1 max_pool", "16,258,816"),
    "inception_v2": ("7 avg_pool, 10 concat, 69 conv2d, 1 global_avg_pool, 1 linear, 69 masked_relu, 5 max_pool", "5,442,976"),
    "resnet50": ("16 add, 53 conv2d, 1 global_avg_pool, 1 linear, 49 masked_relu, 1 max_pool", "10,200,064"),
    "shufflenet": ("13 add, 3 avg_pool, 16 channels, 3 concat, 49 conv2d, 1 global_avg_pool, 1 linear, 33 masked_relu, 1 max_pool", "2,766,624"),
    "squeezenet": ("8 concat, 26 conv2d, 1 global_avg_pool, 24 masked_relu, 3 max_pool", "3,558,824"),
}


@pytest.mark.parametrize("name", IMPORTED)
def test_a_network_of_other_hands_is_imported(name, tmp_path):
    said = convert("import", LIGHT / f"light_{name}.onnx", "--out", tmp_path / name)
    operations, relus = IMPORTED[name]
    assert f"operations: {operations}\n" in said and f"max pools included: {relus}\n" in said


@pytest.mark.parametrize("name", IMPORTED)
def test_a_network_of_other_hands_computes_what_onnxruntime_computes(name, tmp_path):
    images = np.random.default_rng(3).uniform(-2, 2, (1, 3, 224, 224)).astype(np.float32)
    compare(randomised(onnx.load(LIGHT / f"light_{name}.onnx")), images, tmp_path, 0.08)


@pytest.mark.parametrize("name", ["bvlc_alexnet", "zfnet512", "inception_v1"])
def test_local_response_normalisations_are_refused_and_nothing_else_is(name, tmp_path):
    file = LIGHT / f"light_{name}.onnx"
    nodes = [node for node in onnx.load(file).graph.node if node.op_type == "LRN"]
    with pytest.raises(Refused) as refused:
        convert("import", file, "--out", tmp_path / name)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"error: {len(nodes)} operators cannot be run privately:" and len(lines) == 3
    assert lines[1].startswith("  LRN: ") and "BatchNormalization" in lines[1]
    assert lines[2].split() == ", ".join(node.name or node.output[0] for node in nodes).split()
