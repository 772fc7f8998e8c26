"""ONNX networks through the programs: import, quantise, and what both results compute."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from conftest import PROGRAMS

CONVERT = PROGRAMS / "pi-convert"


class Refused(Exception):
    """A program ended with an error, which is the text."""


def convert(*args):
    """Runs ``pi-convert``; returns what it prints."""
    said = subprocess.run([CONVERT, *map(str, args)], capture_output=True, text=True)
    if said.returncode != 0:
        raise Refused(said.stderr)
    return said.stdout


@dataclass
class Networks:
    """The float model and the integer model of one file, and what they compute for each tensor."""

    float_dir: Path
    integer_dir: Path
    float: np.ndarray
    integer: np.ndarray
    activation_bits: int
    has_weights: bool


def tensors(images):
    """``images``, the batch first, under the shape (N, C, H, W) that the programs take."""
    missing = 4 - images.ndim
    shape = images.shape[:2] + (1,) * missing + images.shape[2:]
    return np.ascontiguousarray(images.reshape(shape), dtype=np.float32)


def through(model, images, folder, *flags):
    """Imports ``model``, quantises it on ``images``, and runs both on them."""
    folder.mkdir(parents=True, exist_ok=True)
    file, npy = folder / "model.onnx", folder / "tensors.npy"
    onnx.save(model, file)
    np.save(npy, tensors(images))
    largest = max(1.0, float(np.abs(images).max()))
    float_dir, integer_dir = folder / "float", folder / "integer"
    convert("import", file, "--out", float_dir, "--range", f"{-largest},{largest}", *flags)
    convert("quantise", float_dir, "--calibrate", npy, "--out", integer_dir)
    outputs = [PROGRAMS / "examples" / "outputs", float_dir, integer_dir, npy]
    said = subprocess.run(outputs, check=True, capture_output=True, text=True).stdout
    results = [json.loads(line) for line in said.splitlines()]
    numbers = json.loads((integer_dir / "model.json").read_text())["fixed_point"]
    return Networks(
        float_dir,
        integer_dir,
        np.array([r["float"] for r in results]),
        np.array([r["integer"] for r in results]),
        numbers["activation_fraction_bits"],
        bool(numbers["weight_fraction_bits"]),
    )
