"""Files that are not imported, as ONNX itself writes them: the message says what is wrong and what to do."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from imported import Refused, convert
from onnx_net import Net


def refused(tmp_path, model, *flags):
    file = tmp_path / "net.onnx"
    if isinstance(model, bytes):
        file.write_bytes(model)
    else:
        onnx.save(model, file)
    with pytest.raises(Refused) as caught:
        convert("import", file, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def small(shape=(1, 3, 8, 8)):
    net = Net(list(shape))
    net.head(net.node("Relu", net.conv("image", 3, 4)), 4)
    return net


def test_no_onnx_file(tmp_path):
    assert "net.onnx is not an ONNX file" in refused(tmp_path, b"PK\x03\x04 a zip file")
    empty = helper.make_model(helper.make_graph([], "empty", [], []))
    assert "it holds no network" in refused(tmp_path, empty)
    weights = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "w").SerializeToString()
    assert "net.onnx is not an ONNX file" in refused(tmp_path, weights)


def test_operators_from_the_future(tmp_path):
    said = refused(tmp_path, small().model(opset=99))
    assert "uses version 99 of the ONNX operators" in said and "opset_version" in said


def test_weights_in_a_file_that_is_missing(tmp_path):
    model = small().model()
    file = tmp_path / "net.onnx"
    onnx.save(model, file, save_as_external_data=True, location="net.weights", size_threshold=0)
    assert "conv2d" in convert("import", file, "--out", tmp_path / "whole")
    (tmp_path / "net.weights").rename(tmp_path / "lost")
    with pytest.raises(Refused, match="the weights of 'c0' should be in '.*net.weights': No such file.*beside it"):
        convert("import", file, "--out", tmp_path / "out")


@pytest.mark.parametrize("shape", [[1, 3, "height", 8], ["batch", "channels", 8, 8]])
def test_sizes_that_are_open(tmp_path, shape):
    said = refused(tmp_path, small(shape).model())
    assert "the input 'image' has the shape (" in said and "?" in said and "--input-shape C,H,W" in said
    said = convert("import", tmp_path / "net.onnx", "--out", tmp_path / "out", "--input-shape", "3,8,8")
    assert "1 conv2d" in said
    with pytest.raises(Refused, match="--input-shape does not fit the input 'image'"):
        convert("import", tmp_path / "net.onnx", "--out", tmp_path / "other", "--input-shape", "3,9,9")


def test_a_batch_of_several_images(tmp_path):
    assert "a fixed batch of 4" in refused(tmp_path, small([4, 3, 8, 8]).model())


def test_a_weight_that_is_no_number(tmp_path):
    net = Net([1, 3, 8, 8])
    weights = np.ones((4, 3, 3, 3), np.float32)
    weights[1, 2, 0, 0] = np.nan
    net.head(net.node("Conv", "image", net.constant(weights)), 4)
    said = refused(tmp_path, net.model())
    assert "the constant 'c0' cannot be read" in said and "NaN" in said


def test_two_results(tmp_path):
    net = small()
    last = net.nodes[-1].output[0]
    said = refused(tmp_path, net.model(last, net.nodes[0].output[0]))
    assert f"the network has 2 outputs ('{last}', 'conv0')" in said and "export it with one output" in said


def test_every_operator_that_is_not_supported_is_named_at_once(tmp_path):
    net = Net([1, 3, 8, 8])
    x = net.conv("image", 3, 4)
    x = net.node("Relu", net.node("Sigmoid", x))
    x = net.node("LRN", x, size=3)
    x = net.node("HardSwish", net.conv(net.node("Sigmoid", x), 4, 4))
    x = net.node("Mul", x, net.node("Relu", net.conv(x, 4, 4)))
    net.head(net.node("Pad", x, net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode="reflect"), 4)
    lines = refused(tmp_path, net.model()).splitlines()
    assert lines[0] == "error: 6 operators cannot be run privately:"
    named = {kind.split(":")[0].strip(): nodes.strip() for kind, nodes in zip(lines[1::2], lines[2::2])}
    of = {}
    for node in net.nodes:
        of.setdefault(node.op_type, []).append(node.name)
    assert named == {kind: ", ".join(of[kind]) for kind in ("Sigmoid", "LRN", "HardSwish", "Mul", "Pad")}


def test_integers_of_results(tmp_path):
    net = small()
    net.node("Cast", net.node("Cast", net.nodes[-1].output[0], to=TensorProto.INT32), to=TensorProto.FLOAT)
    said = refused(tmp_path, net.model())
    assert "Cast: it makes integers of a result" in said


def test_dropout_in_training(tmp_path):
    net = small()
    x = net.nodes[-1].output[0]
    net.node("Dropout", x, net.constant(np.float32(0.5)), net.constant(np.array(True)))
    said = refused(tmp_path, net.model())
    assert "Dropout: it is in training mode" in said and "model.eval()" in said


def test_images_of_another_shape(tmp_path):
    file, images = tmp_path / "net.onnx", tmp_path / "images.npy"
    onnx.save(small().model(), file)
    np.save(images, np.zeros((2, 3, 8, 9), np.float32))
    with pytest.raises(Refused, match=r"images.npy: its shape is \[2, 3, 8, 9\]; .*\(N, C, H, W\) of \[3, 8, 8\]"):
        convert("import", file, "--out", tmp_path / "out", "--calibrate", images)
    assert not (tmp_path / "out").exists()
