//! Why an operator cannot be run privately, and the way out.

use super::builder::{Call, Value};

/// Why nodes of this operator are refused.
pub fn reason(op_type: &str) -> String {
    let (why, way_out) = match op_type {
        "LRN" => (
            "normalisation across channels divides by a power of results",
            "train the network with BatchNormalization instead",
        ),
        "Sigmoid" | "Tanh" | "HardSigmoid" | "Softplus" | "Softsign" | "Mish" => (
            "this activation is no ReLU",
            "train the network with Relu; leave it out of the export if it is the last operator",
        ),
        "Erf" | "Gelu" | "Elu" | "Selu" | "Celu" | "HardSwish" | "Swish" | "ThresholdedRelu" => (
            "this activation is no ReLU",
            "train the network with Relu, LeakyRelu or Clip from 0",
        ),
        "LSTM" | "GRU" | "RNN" | "Scan" => (
            "it repeats a computation along a sequence",
            "choose a network of convolutions",
        ),
        "Attention" | "MultiHeadAttention" | "Einsum" | "RotaryEmbedding" => (
            "it multiplies results with each other",
            "choose a network of convolutions",
        ),
        "LayerNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "RMSNormalization"
        | "MeanVarianceNormalization"
        | "LpNormalization" => (
            "it normalises by statistics of the image itself",
            "train the network with BatchNormalization",
        ),
        "ConvTranspose" | "Resize" | "Upsample" | "DepthToSpace" | "SpaceToDepth" => (
            "it changes the size of a map in a way that is not supported",
            "use strided convolutions and pools",
        ),
        "If" | "Loop" | "Where" | "NonZero" | "TopK" | "NonMaxSuppression" | "Compress"
        | "Unique" | "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" => (
            "what it computes depends on values of the image",
            "export the part of the network before it",
        ),
        "QLinearConv"
        | "QLinearMatMul"
        | "ConvInteger"
        | "MatMulInteger"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear" => (
            "the network is quantised already",
            "export it in floating point; `pi-convert quantise` chooses the integers",
        ),
        "LpPool" | "GlobalLpPool" | "MaxUnpool" | "MaxRoiPool" | "RoiAlign" => {
            ("this pool is not supported", "use MaxPool or AveragePool")
        }
        "Min" => (
            "the minimum of two results is not supported",
            "use Clip from 0",
        ),
        "Exp" | "Log" | "Sqrt" | "Pow" | "Abs" | "Reciprocal" | "Sign" | "Sin" | "Cos"
        | "Round" | "Floor" | "Ceil" => (
            "this function of a result is no ReLU",
            "train the network with Relu",
        ),
        "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" => (
            "of the reductions only ReduceMean over rows and columns is supported",
            "use GlobalAveragePool or GlobalMaxPool",
        ),
        _ => (
            "this operator is not supported",
            "export the network without it",
        ),
    };
    format!("{why}; {way_out}")
}

/// What the nodes after a refused one may go on with, so that they are judged too: its largest input, where the shapes are the same.
pub fn result(call: &Call) -> Vec<Value> {
    let keeps_shape = matches!(
        call.node.op_type(),
        "LRN"
            | "Sigmoid"
            | "Tanh"
            | "HardSigmoid"
            | "Softplus"
            | "Softsign"
            | "Mish"
            | "Erf"
            | "Gelu"
            | "Elu"
            | "Selu"
            | "Celu"
            | "HardSwish"
            | "Swish"
            | "ThresholdedRelu"
            | "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization"
            | "MeanVarianceNormalization"
            | "LpNormalization"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Pow"
            | "Abs"
            | "Reciprocal"
            | "Sign"
            | "Sin"
            | "Cos"
            | "Round"
            | "Floor"
            | "Ceil"
            | "Clip"
            | "Mul"
            | "Div"
            | "Min"
            | "Dropout"
            | "Cast"
            | "BatchNormalization"
            | "QuantizeLinear"
            | "DequantizeLinear"
    );
    if !keeps_shape {
        return vec![];
    }
    let views = call
        .inputs
        .iter()
        .flatten()
        .filter_map(|value| match value {
            Value::View(view) => Some(view),
            _ => None,
        });
    let largest = views.max_by_key(|view| view.dims.iter().product::<usize>());
    largest.cloned().map(Value::View).into_iter().collect()
}
