//! Models on disk, the compiled graph and the plaintext executor, on small random networks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_model::packing::PackingGoal;
use pi_model::random::{RandomModel, residual_network};
use pi_model::spec::OutputMode;
use pi_model::{Model, ModelError, PublicModel, PublicPlan, executor};

fn small() -> Model {
    residual_network("small", [3, 8, 8], &[4, 6], 1, 5, 300, OutputMode::Logits).unwrap()
}

#[test]
fn a_model_survives_the_disk_and_the_wire() {
    let model = small();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let loaded = Model::load(dir.path()).unwrap();
    assert_eq!(loaded.public().graph(), model.public().graph());
    let json = model.public().to_json();
    let public = PublicModel::from_json(&json).unwrap();
    assert_eq!(public.to_json(), json);
    assert_eq!(
        PublicPlan::new(&public, 2).unwrap().hash(),
        PublicPlan::new(loaded.public(), 2).unwrap().hash()
    );
    assert_ne!(
        PublicPlan::new(&public, 2).unwrap().hash(),
        PublicPlan::new(&public, 3).unwrap().hash()
    );
    assert_ne!(
        PublicPlan::new(&public, 2).unwrap().hash(),
        PublicPlan::with_goal(&public, 2, PackingGoal::FEWEST_BYTES)
            .unwrap()
            .hash()
    );
    let input = vec![100; 3 * 8 * 8];
    assert_eq!(
        executor::run(&loaded, &input).unwrap(),
        executor::run(&model, &input).unwrap()
    );
}

#[test]
fn the_residual_network_compiles_to_its_layers() {
    let model = small();
    let graph = model.public().graph();
    assert_eq!(graph.layers.len(), 1 + 2 * 2 + 1);
    assert_eq!(graph.n_relus(), 300);
    // The input, four block inputs and middles, and the pooled features: one source each; the second block's input
    // serves its convolution and its shortcut.
    assert_eq!(graph.sources.len(), graph.tensors.len());
    assert_eq!(graph.layers[4].convs.len(), 2);
    assert_eq!(graph.layers[2].terms.len(), 1);
    let last = graph.layers.last().unwrap();
    assert_eq!((last.shape.n_values(), last.truncated_bits), (5, 0));
}

#[test]
fn the_executor_agrees_with_a_convolution_by_definition() {
    let mut net = RandomModel::new("one", [2, 5, 4], 3);
    let model = net
        .conv("c", "input", 3, 3, 2, 1)
        .relu("r", "c", 7)
        .classifier("fc", "r", 4)
        .finish(OutputMode::Logits, 3)
        .unwrap();
    let input = net.input();
    let graph = model.public().graph();
    let layer = &graph.layers[0];
    let w = model.weights(&layer.convs[0]);
    let run = executor::run(&model, &input).unwrap();
    for o in 0..3 {
        for i in 0..3usize {
            for j in 0..2usize {
                let mut y = w.bias[o];
                for c in 0..2 {
                    for u in 0..3 {
                        for v in 0..3 {
                            let (row, column) =
                                ((2 * i + u).wrapping_sub(1), (2 * j + v).wrapping_sub(1));
                            if row < 5 && column < 4 {
                                y += i64::from(w.weight[((o * 2 + c) * 3 + u) * 3 + v])
                                    * input[(c * 5 + row) * 4 + column];
                            }
                        }
                    }
                }
                let f = layer.truncated_bits;
                let rounded = (y + (1 << f >> 1)) >> f;
                let at = (o * 3 + i) * 2 + j;
                let kept = layer.relu.as_ref().unwrap().kept().contains(&(at as u32));
                assert_eq!(
                    run.tensors[1][at],
                    if kept { rounded.max(0) } else { rounded },
                    "output {o} {i} {j}"
                );
            }
        }
    }
}

#[test]
fn broken_models_name_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let model = small();
    model.save(dir.path()).unwrap();
    let path = dir.path().join("model.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let broken = [
        (
            good.replace("\"format_version\": 2", "\"format_version\": 9"),
            "format version 9",
        ),
        (
            good.replacen(
                "1,\n          1,\n          1,\n          1\n",
                "1,\n          9,\n          1,\n          1\n",
                1,
            ),
            "does not fit",
        ),
        (
            good.replacen("\"input\": \"stem\"", "\"input\": \"nowhere\"", 1),
            "no earlier operation",
        ),
        (
            good.replacen("\"relus_kept\": ", "\"relus_kept\": 1", 1),
            "its mask keeps",
        ),
        (
            good.replacen("\"out_channels\": 4", "\"out_channels\": 5", 1),
            "'",
        ),
        (
            good.replacen("\"op\": \"add\"", "\"op\": \"multiply\"", 1),
            "unknown variant",
        ),
        (good.replacen("\"name\"", "\"nom\"", 1), "unknown field"),
        (
            good.replacen("\"out_channels\": 4", "\"out_channels\": 99999999999", 1),
            "must hold",
        ),
        (good[..good.len() / 2].to_owned(), "not a valid model file"),
    ];
    for (json, expected) in broken {
        std::fs::write(&path, json).unwrap();
        let error = Model::load(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "'{error}' does not say '{expected}'"
        );
    }
    std::fs::write(&path, good).unwrap();
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 3]).unwrap();
    assert!(matches!(
        Model::load(dir.path()),
        Err(ModelError::Format { .. })
    ));
    std::fs::remove_file(&weights).unwrap();
    assert!(
        Model::load(dir.path())
            .unwrap_err()
            .to_string()
            .contains("model.safetensors")
    );
}

#[test]
fn an_image_of_another_size_is_refused() {
    let model = small();
    assert!(model.public().quantise(&[0; 3 * 8 * 8], 8, 8).is_ok());
    let error = model
        .public()
        .quantise(&[0; 3 * 4 * 16], 16, 4)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("8 x 8") && error.contains("16 x 4"),
        "{error}"
    );
}

/// The tensors of a file as they are written: type, shape, data.
type Written = (safetensors::Dtype, Vec<usize>, Vec<u8>);

#[test]
fn what_a_file_says_of_its_tensors_is_compared_with_what_operations_need() {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView};
    let dir = tempfile::tempdir().unwrap();
    let model = small();
    model.save(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let good: std::collections::BTreeMap<String, Written> = tensors
        .tensors()
        .into_iter()
        .map(|(name, v)| (name, (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
        .collect();
    let load = |change: &dyn Fn(&mut std::collections::BTreeMap<String, Written>)| {
        let mut changed = good.clone();
        change(&mut changed);
        let views = changed.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        Model::load(dir.path())
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let named = |end: &str| good.keys().find(|n| n.ends_with(end)).unwrap().clone();
    let (mask, bias) = (named(".mask"), named(".bias"));
    let weight = good.keys().find(|n| {
        n.ends_with(".weight")
            && good[*n].1[..2] != [good[*n].1[1], good[*n].1[0]]
            && good[*n].1.get(2).is_some_and(|&k| k > 1)
    });
    let weight = weight.unwrap().clone();
    assert_eq!(load(&|_| ()), Ok(()));
    let turned = |name: &str| {
        let mut shape = good[name].1.clone();
        shape.rotate_left(1);
        let says = format!("tensor '{name}' has shape {shape:?}, ");
        let refused = load(&|all| all.get_mut(name).unwrap().1 = shape.clone()).unwrap_err();
        assert!(refused.contains(&says), "{refused}");
        let due = format!("needs {:?} (", good[name].1);
        assert!(refused.contains(&due), "{refused}");
    };
    turned(&weight);
    turned(&mask);
    let refused = load(&|all| all.get_mut(&bias).unwrap().1.push(1)).unwrap_err();
    assert!(
        refused.contains(&format!("tensor '{bias}' has shape")),
        "{refused}"
    );
    // A fully connected layer as (O, features, 1, 1).
    let last = model.public().graph().layers.last().unwrap().convs[0]
        .op
        .clone();
    let last = format!("{last}.weight");
    assert_eq!(good[&last].1.len(), 2);
    assert_eq!(
        load(&|all| all.get_mut(&last).unwrap().1.extend([1, 1])),
        Ok(())
    );
    let refused = load(&|all| all.get_mut(&last).unwrap().1.reverse());
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("linear") && refused.contains("(O, features)"),
        "{refused}"
    );
    let extra: Written = (Dtype::I8, vec![1], vec![0]);
    for name in ["spare.weight", "momentum", "spare.bias"] {
        let refused = load(&|all| {
            all.insert(name.to_owned(), extra.clone());
        });
        let refused = refused.unwrap_err();
        assert!(refused.contains(&format!("tensors '{name}'")), "{refused}");
    }
    let refused = load(&|all| {
        all.insert("spare.mask".to_owned(), (Dtype::U8, vec![1], vec![0]));
    });
    assert!(refused.unwrap_err().contains("'spare.mask'"));
    let refused = load(&|all| all.get_mut(&bias).unwrap().0 = Dtype::U64).unwrap_err();
    assert!(
        refused.contains("is of type U64, it has to be I64"),
        "{refused}"
    );
}
