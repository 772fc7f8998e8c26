//! ONNX files made by tests.

use super::reference;

use pi_convert::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, data_type,
};
use pi_convert::onnx::{ImportError, Options, Summary, import};
use pi_model::FloatModel;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _};

/// A file in the making: the image is called `x`, the result `y`.
#[derive(Clone)]
pub struct Net {
    pub proto: ModelProto,
    seed: u64,
}

pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        i,
        kind: 2,
        ..Default::default()
    }
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ints: ints.to_vec(),
        kind: 7,
        ..Default::default()
    }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        f,
        kind: 1,
        ..Default::default()
    }
}

pub fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        s: s.into(),
        kind: 3,
        ..Default::default()
    }
}

pub fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| DimensionProto {
        dim_value: (d > 0).then_some(d),
        dim_param: (d <= 0).then(|| "n".into()),
    };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: data_type::FLOAT,
                shape: Some(TensorShapeProto {
                    dim: dims.iter().map(dim).collect(),
                }),
            }),
        }),
    }
}

impl Net {
    /// With an image of shape `dims`; 0 leaves a size open.
    pub fn new(dims: &[i64]) -> Self {
        let graph = GraphProto {
            name: "net".into(),
            input: vec![value("x", dims)],
            output: vec![value("y", &[])],
            ..Default::default()
        };
        let opset = OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        };
        let proto = ModelProto {
            ir_version: 8,
            graph: Some(graph),
            opset_import: vec![opset],
            ..Default::default()
        };
        Self { proto, seed: 0 }
    }

    pub fn graph(&mut self) -> &mut GraphProto {
        self.proto.graph.as_mut().unwrap()
    }

    /// Adds a constant.
    pub fn floats(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.graph().initializer.push(TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: data_type::FLOAT,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
        self
    }

    /// Adds a constant of random numbers from -1 to 1.
    pub fn random(mut self, name: &str, dims: &[i64]) -> Self {
        self.seed += 1;
        let n: i64 = dims.iter().product();
        let values = noise(n as usize, self.seed);
        self.floats(name, dims, &values)
    }

    /// Adds a list of integers.
    pub fn sizes(mut self, name: &str, values: &[i64]) -> Self {
        self.graph().initializer.push(TensorProto {
            name: name.into(),
            dims: vec![values.len() as i64],
            data_type: data_type::INT64,
            int64_data: values.to_vec(),
            ..Default::default()
        });
        self
    }

    /// Adds a node; `inputs` and `outputs` are names with blanks between, `-` is an absent input.
    pub fn node(
        mut self,
        op: &str,
        inputs: &str,
        outputs: &str,
        attributes: &[AttributeProto],
    ) -> Self {
        let names = |list: &str| -> Vec<String> {
            let name = |n| if n == "-" { "" } else { n }.to_owned();
            list.split(' ').map(name).collect()
        };
        let n = self.graph().node.len();
        let node = NodeProto {
            input: names(inputs),
            output: names(outputs),
            name: format!("{}{n}", op.to_lowercase()),
            op_type: op.into(),
            attribute: attributes.to_vec(),
            ..Default::default()
        };
        self.graph().node.push(node);
        self
    }

    /// Adds a convolution with random weights and no attributes but `attributes`.
    pub fn conv(
        self,
        input: &str,
        output: &str,
        dims: &[i64],
        attributes: &[AttributeProto],
    ) -> Self {
        let (w, b) = (format!("{output}.w"), format!("{output}.b"));
        let net = self.random(&w, dims).random(&b, &dims[..1]);
        net.node("Conv", &format!("{input} {w} {b}"), output, attributes)
    }

    /// Adds a normalisation with `gamma` and random other numbers.
    pub fn norm(self, input: &str, output: &str, gamma: &[f32]) -> Self {
        let c = [gamma.len() as i64];
        let name = |kind: &str| format!("{output}.{kind}");
        let variance: Vec<f32> = noise(gamma.len(), 77).iter().map(|v| 1.0 + v * v).collect();
        let net = self
            .floats(&name("gamma"), &c, gamma)
            .random(&name("beta"), &c)
            .random(&name("mean"), &c)
            .floats(&name("var"), &c, &variance);
        let inputs = format!("{input} {output}.gamma {output}.beta {output}.mean {output}.var");
        net.node("BatchNormalization", &inputs, output, &[])
    }

    /// Imports the file.
    pub fn import(&self, options: &Options) -> Result<(FloatModel, Summary), ImportError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.onnx");
        std::fs::write(&path, self.proto.encode_to_vec()).unwrap();
        import(&path, options)
    }

    /// Imports the file and compares the model with a plain evaluation; returns its operations, as `1 add, 2 conv2d`, and the model.
    pub fn check(&self) -> (String, FloatModel) {
        // A stated normalisation is not guessed.
        let options = Options {
            mean: Some(vec![0.0]),
            std: Some(vec![1.0]),
            ..Default::default()
        };
        let (model, summary) = self.import(&options).unwrap();
        let graph = self.proto.graph.as_ref().unwrap();
        let input = &model.spec.input;
        let x = noise(input.n_values(), 99);
        let expected = reference::run(graph, &x);
        let pixels: Vec<f32> = x
            .chunks(input.height * input.width)
            .zip(input.mean.iter().zip(&input.std))
            .flat_map(|(c, (m, s))| c.iter().map(move |v| (v - *m as f32) / *s as f32))
            .collect();
        let got = pi_convert::float::run(&model, &pixels).unwrap().output;
        assert_eq!(got.len(), expected.len());
        for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
            let near = (a - b).abs() <= 1e-4 * b.abs().max(1.0);
            assert!(near, "value {i} is {a}, not {b}; {:#?}", model.spec.ops);
        }
        let kinds = summary
            .operations
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"));
        (kinds.collect::<Vec<_>>().join(", "), model)
    }

    /// Why the file is refused.
    pub fn refused(&self) -> String {
        self.import(&Options::default()).unwrap_err().to_string()
    }
}
