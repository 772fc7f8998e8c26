"""The network that the repository serves, written as an ONNX file and read back: the same answers.

Only the one that keeps all ReLUs can go this way. A ReLU that is kept at some positions, m ReLU(x) + (1 - m) x, has a constant for each
position, and no import takes these.

``PI_CIFAR10`` names a folder with CIFAR-10's ``test_batch.bin``; then the accuracies on 1,000 images are compared.
"""

import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import REPOSITORY
from imported import convert
from onnx_net import Net

SERVED = REPOSITORY / "models" / "resnet20-cifar10-all"
SPEC = json.loads((SERVED / "model.json").read_text())
N_IMAGES = 1000


def tensors():
    """All tensors of the weights file: a header of JSON, then the values."""
    content = (SERVED / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    types = {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1"}
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(values[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
    }


def exported():
    """The network in floating point: every integer divided by its scale."""
    size = [SPEC["input"][key] for key in ("channels", "height", "width")]
    numbers, weights = SPEC["fixed_point"], tensors()
    net = Net([1, *size])
    results = {"input": "image"}
    for op in SPEC["ops"]:
        name, kind = op["name"], op["op"]
        reads = [results[read] for read in op.get("inputs", [op.get("input")])]
        weight_bits = numbers["weight_fraction_bits"].get(name, 0)
        bias_bits = weight_bits + numbers["activation_fraction_bits"]
        if kind == "conv2d":
            window = op["window"]
            # Top, left, bottom, right, as in ONNX.
            attributes = {"pads": window.get("padding", [0] * 4), "strides": window.get("stride", [1, 1])}
            assert set(window) <= {"kernel", "stride", "padding"}
            constants = real(net, weights[f"{name}.weight"], weight_bits), real(net, weights[f"{name}.bias"], bias_bits)
            results[name] = net.node("Conv", *reads, *constants, **attributes)
        elif kind == "linear":
            matrix = weights[f"{name}.weight"].reshape(op["out_features"], -1)
            # It reads the sum of 8 x 8 positions, 2^6 times their mean.
            constants = real(net, matrix, weight_bits), real(net, weights[f"{name}.bias"], bias_bits + 6)
            results[name] = net.node("Gemm", net.node("Flatten", *reads), *constants, transB=1)
        else:
            assert kind != "masked_relu" or weights[f"{name}.mask"].all()
            op_type = {"masked_relu": "Relu", "add": "Add", "global_avg_pool": "GlobalAveragePool"}[kind]
            results[name] = net.node(op_type, *reads)
    # Models are compared whose last operations have one name.
    net.nodes[-1].name = SPEC["ops"][-1]["name"]
    return net.model()


def real(net, integers, fraction_bits):
    return net.constant((integers * 0.5**fraction_bits).astype(np.float32))


def png(pixels):
    """A PNG file of pixels (H, W, 3)."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def images(tmp_path):
    """A folder of images for each class."""
    folder = tmp_path / "images"
    for label in SPEC["labels"]:
        (folder / label).mkdir(parents=True)
    cifar = os.environ.get("PI_CIFAR10")
    if not cifar:
        for file in (REPOSITORY / "models" / "samples").glob("*.png"):
            label = file.stem.split("-")[1]
            (folder / label / file.name).write_bytes(file.read_bytes())
        return folder
    records = np.fromfile(Path(cifar, "test_batch.bin"), np.uint8).reshape(-1, 3073)[:N_IMAGES]
    for i, record in enumerate(records):
        pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        (folder / SPEC["labels"][record[0]] / f"{i:04}.png").write_bytes(png(pixels))
    return folder


def test_the_served_network_comes_back_from_onnx(images, tmp_path):
    file, labels = tmp_path / "net.onnx", tmp_path / "labels"
    onnx.save(exported(), file)
    labels.write_text("\n".join(SPEC["labels"]))
    mean, std = (",".join(map(str, SPEC["input"][key])) for key in ("mean", "std"))
    said = convert("import", file, "--out", tmp_path / "float", "--mean", mean, "--std", std, "--labels", labels)
    assert f"max pools included: {SPEC['card']['relus_total']:,}\n" in said
    convert("quantise", tmp_path / "float", "--calibrate", images, "--out", tmp_path / "integer")
    served, own = (check(tmp_path / "float", integers, images) for integers in (SERVED, tmp_path / "integer"))
    for seen in (served, own):
        # Both have the float model's answers: those of the numbers that the served integers stand for.
        assert seen["same top class"] >= 99.8 and seen["difference of the logits, root mean square"] < 1
        assert seen["accumulators out of range"] == 0
    accuracy = "accuracy of the integers"
    assert own["images"] == served["images"] > 9 and served[accuracy] >= 85
    assert abs(own[accuracy] - served[accuracy]) <= 0.2


def check(real, integers, images):
    """The table of ``pi-convert check`` as numbers."""
    rows = (re.split(r"\s{2,}", line) for line in convert("check", real, integers, images).splitlines())
    return {name: float(value.split()[0]) for name, value, *_ in rows}
