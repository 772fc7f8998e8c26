"""Every operator that is imported, against the expected results of ONNX's own tests."""

import collections
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import Server
from imported import Refused, tensors, through
from onnx_cases import Case, cases
from private_inference import Client

# Cases that pass, those of the newest onnx that was tried; version 1.17 has seven less.
PASS = """
    add averagepool_2d_precomputed_pads averagepool_2d_precomputed_pads_count_include_pad averagepool_2d_precomputed_strides
    averagepool_2d_precomputed_same_upper averagepool_1d_default averagepool_2d_default averagepool_2d_same_upper
    averagepool_2d_same_lower averagepool_2d_pads averagepool_2d_pads_count_include_pad averagepool_2d_strides averagepool_2d_ceil
    averagepool_2d_ceil_last_window_starts_on_pad batchnorm_example batchnorm_epsilon clip_default_min concat_2d_axis_1
    concat_2d_axis_negative_1 concat_3d_axis_1 concat_3d_axis_negative_2 basic_conv_with_padding basic_conv_without_padding
    conv_with_strides_padding conv_with_strides_no_padding conv_with_strides_and_asymmetric_padding conv_with_autopad_same
    depthtospace_example_expanded depthtospace_crd_mode_example_expanded dropout_default dropout_default_ratio dropout_default_mask
    dropout_default_mask_ratio dropout_random_old flatten_axis1 flatten_default_axis flatten_negative_axis3 gather_1
    gemm_default_zero_bias gemm_default_no_bias gemm_default_scalar_bias gemm_default_single_elem_vector_bias gemm_default_vector_bias
    gemm_transposeB gemm_alpha gemm_beta globalaveragepool globalaveragepool_precomputed globalmaxpool globalmaxpool_precomputed
    identity leakyrelu leakyrelu_default matmul_2d maxpool_2d_precomputed_pads maxpool_with_argmax_2d_precomputed_pads
    maxpool_2d_precomputed_strides maxpool_with_argmax_2d_precomputed_strides maxpool_2d_precomputed_same_upper maxpool_1d_default
    maxpool_2d_default maxpool_2d_same_upper maxpool_2d_same_lower maxpool_2d_pads maxpool_2d_strides maxpool_2d_ceil
    maxpool_2d_ceil_output_size_reduce_by_one maxpool_2d_dilations neg relu reshape_negative_dim reshape_zero_and_negative_dim
    slice_neg slice_end_out_of_bounds spacetodepth_expanded spacetodepth_example_expanded spacetodepth_dcr_mode_example_expanded
    spacetodepth_crd_mode_example_expanded split_equal_parts_2d_opset13 split_variable_parts_2d_opset13 split_equal_parts_2d
    split_variable_parts_2d_opset18 split_2d_uneven_split_opset18 squeeze squeeze_negative_axes sub transpose_all_permutations_0
    transpose_all_permutations_1 unsqueeze_axis_1 unsqueeze_axis_2 unsqueeze_two_axes unsqueeze_three_axes unsqueeze_unsorted_axes
    unsqueeze_negative_axes single_relu_model PReLU_2d BatchNorm2d_eval Conv2d_depthwise_padded Conv1d_dilated
    BatchNorm2d_momentum_eval PixelShuffle Linear Conv1d_pad2 Conv1d_pad1 AvgPool2d ZeroPad2d Conv2d_depthwise Conv2d_groups_thnn
    Conv1d_groups Linear_no_bias Conv2d_depthwise_with_multiplier Conv2d_groups Conv1d_pad1size1 BatchNorm1d_3d_input_eval
    Conv2d_dilated AvgPool2d_stride Conv2d_no_bias Conv2d_strided MaxPool1d_stride PReLU_1d MaxPool2d_stride_padding_dilation
    LeakyReLU_with_negval Conv2d MaxPool1d LeakyReLU ReLU Conv2d_padding MaxPool2d Conv1d_stride Conv2d_depthwise_strided Conv1d
    Conv1d_pad2size1 operator_maxpool operator_index operator_concat2 operator_flatten operator_mm operator_conv
""".split()

# Six seconds for one row of 220,000 values.
SLOW = "test_MaxPool1d_stride_padding_dilation"

# Why a case is no network of one image in and one result out.
SKIPPED = {
    "operator": "one is not supported",
    "type": "its image has no 32-bit floats",
    "rank": "its image has another number of dimensions than two to four",
    "batch": "it changes the first dimension of several images",
    "end": "it ends with a softmax or an argmax, which the client takes",
    "no input": "it computes a constant",
    "empty": "its image has no values",
}

# What the program says of a form that cannot be run privately.
REFUSED = [
    "only one value for each channel can be run privately",
    "only clipping from 0 to a value above 0 can be run privately",
    "only channels, axis 1, can be put together",
    "only a list of channels, axis 1, can be taken",
    "only zeros can be put around a map",
    "only that over all rows and columns can be run privately",
    "only channels, and every n-th row and column from the first, can be taken",
    "only operators with constant parameters can be run privately",
    "a matrix can only be multiplied with one vector",
    "does not depend on the image, which is not supported",
    "is not computed from the input",
    "it is in training mode",
    "it takes no channel at all",
    "it takes nothing of the batch",
    "it transposes its input",
    "its windows are dilated",
    "cannot be given the shape",
    "which mixes channels and positions",
    "biases for",
    "is no ReLU",
    "Expand: this operator is not supported",
]

# A convolution with a stride, a dilated one, one for each channel, pools, and two images that are put together or added; and how many
# truncations are between image and result. Those of shares are off by one at most, at random.
PRIVATE = {
    "test_Conv2d_strided": 0,
    "test_Conv2d_dilated": 0,
    "test_Conv2d_depthwise_padded": 0,
    "test_maxpool_2d_dilations": 0,
    "test_averagepool_2d_precomputed_pads": 1,
    "test_concat_3d_axis_1": 0,
    "test_add": 0,
}


class Results:
    """What became of each case, by its name."""

    def __init__(self, root):
        self.passed, self.refused, self.skipped = {}, {}, {}
        found = list(cases())
        self.skipped = dict(case for case in found if not isinstance(case, Case))
        found = [case for case in found if isinstance(case, Case) and case.name != SLOW]
        with ThreadPoolExecutor() as pool:
            for case, result in zip(found, pool.map(lambda case: run(case, root), found)):
                kind = self.refused if isinstance(result, str) else self.passed
                kind[case.name] = result if isinstance(result, str) else (case, result)


def run(case, root):
    try:
        return through(case.model, case.images, root / case.name, "--name", case.name)
    except Refused as refused:
        return str(refused)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("operators"))


def test_every_case_passes_or_has_a_known_reason(results):
    print(len(results.passed), "pass,", collections.Counter(results.skipped.values()))
    assert set(results.skipped.values()) <= set(SKIPPED)
    unknown = {name: said for name, said in results.refused.items() if not any(known in said for known in REFUSED)}
    assert not unknown
    assert not {f"test_{name}" for name in PASS} & (set(results.refused) | set(results.skipped))
    assert len(results.passed) >= len(PASS) - 7


def test_results_in_floating_point_are_those_that_are_expected(results):
    for name, (case, found) in results.passed.items():
        # Some are written with four digits.
        bound = 1e-4 * max(1, np.abs(case.expected).max())
        np.testing.assert_allclose(found.float, case.expected, rtol=0, atol=bound, err_msg=name)


def test_results_of_integers_are_off_by_their_rounding(results):
    for name, (case, found) in results.passed.items():
        # Weights have 8 bits. Where there are none, only pools divide.
        share = 0.02 if found.has_weights else 0.0005
        bound = share * np.abs(case.expected).max() + 2.5 * 0.5**found.activation_bits
        np.testing.assert_allclose(found.integer, case.expected, rtol=0, atol=bound, err_msg=name)


def test_a_private_result_is_that_of_the_plaintext_executor(results, tmp_path):
    found = {name: results.passed[name] for name in PRIVATE}
    server = Server([networks.integer_dir for _, networks in found.values()], log=tmp_path / "server.log")
    try:
        for name, (case, networks) in found.items():
            with Client(server.url, name) as client:
                private = client.predict(tensors(case.images))
            off = PRIVATE[name] * 0.5**networks.activation_bits
            np.testing.assert_allclose(private, networks.integer, rtol=0, atol=off, err_msg=name)
    finally:
        server.stop()
