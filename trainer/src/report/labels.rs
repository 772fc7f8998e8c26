//! Names for runs in charts and tables: what was chosen, and all else in which their recipes differ, so
//! that a mean over seeds is never one over recipes.

use super::Outcome;
use crate::recipe::Recipe;
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields that say which run it is, not how it was trained.
const IDENTITY: [&str; 8] = [
    "stage",
    "dataset",
    "arch",
    "seed",
    "relu_budget",
    "relus_by_layer",
    "teacher",
    "from",
];

/// Choices that [`Outcome::label`] names already.
const NAMED: [&str; 4] = ["selection", "score", "budgets_from_scores", "empty_layers"];

/// A recipe's fields, nested ones joined by a dot.
fn flatten(prefix: &str, value: &Value, to: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&format!("{prefix}.{key}"), value, to);
            }
        }
        Value::String(text) => drop(to.insert(prefix.into(), text.clone())),
        _ => drop(to.insert(prefix.into(), value.to_string())),
    }
}

/// All settings of a run, stage by stage.
fn settings(outcome: &Outcome) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let stages: Vec<&Recipe> = outcome.history.iter().chain([&outcome.recipe]).collect();
    for (i, recipe) in stages.iter().enumerate() {
        let before = stages[..i].iter().filter(|r| r.stage == recipe.stage);
        let stage = match before.count() {
            0 => recipe.stage.clone(),
            n => format!("{}{}", recipe.stage, n + 1),
        };
        if recipe.imported() {
            all.insert(format!("{stage} imported"), "true".into());
            continue;
        }
        if let Ok(Value::Object(fields)) = serde_json::to_value(recipe) {
            let fields = fields.iter().filter(|(k, _)| *k != "choices");
            for (key, value) in fields.filter(|(k, _)| !IDENTITY.contains(&k.as_str())) {
                flatten(&format!("{stage} {key}"), value, &mut all);
            }
        }
        // A list made by hand is a choice; one that follows from a rule goes with the budget.
        let by_hand = recipe
            .choices
            .iter()
            .any(|c| c == "budgets_from=given list");
        let choices = recipe.choices.iter().filter_map(|c| c.split_once('='));
        for (key, value) in choices {
            let identity = IDENTITY.contains(&key) && !(by_hand && key == "relus_by_layer");
            if !identity && !NAMED.contains(&key) {
                all.insert(format!("{stage} {key}"), value.into());
            }
        }
    }
    let names: Vec<&str> = stages.iter().map(|r| r.stage.as_str()).collect();
    all.insert("stages".into(), names.join("+"));
    all
}

/// Names of runs, and what their recipes' numbers stand for.
pub struct Labels {
    /// A name for each outcome: its label, and the number of its recipe where there are several.
    pub names: Vec<String>,
    /// What each numbered recipe has that is not the same in all of its kind.
    pub recipes: Vec<String>,
}

/// Names outcomes so that those of one name differ in their seeds alone. Teachers and students are
/// numbered by what tells them from their own kind; a setting that an older record lacks does not count.
pub fn labels(outcomes: &[&Outcome]) -> Labels {
    let all: Vec<BTreeMap<String, String>> = outcomes.iter().map(|o| settings(o)).collect();
    let apart = |(i, o): (usize, &&Outcome)| {
        let of_kind = |j: &usize| outcomes[*j].recipe.stage == o.recipe.stage;
        let others: Vec<usize> = (0..all.len()).filter(of_kind).collect();
        let differs = |(key, value): &(&String, &String)| {
            let theirs = others.iter().filter_map(|&j| all[j].get(*key));
            theirs.into_iter().any(|v| v != *value)
        };
        let apart = all[i].iter().filter(differs);
        apart
            .map(|(k, v)| format!("{k} {v}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let apart: Vec<String> = outcomes.iter().enumerate().map(apart).collect();
    let mut recipes: Vec<String> = Vec::new();
    let name = |(o, apart): (&&Outcome, &String)| {
        if apart.is_empty() {
            return o.label();
        }
        let known = recipes.iter().position(|r| r == apart);
        let number = known.unwrap_or_else(|| {
            recipes.push(apart.clone());
            recipes.len() - 1
        });
        format!("{}, recipe {}", o.label(), number + 1)
    };
    Labels {
        names: outcomes.iter().zip(&apart).map(name).collect(),
        recipes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Normaliser;
    use crate::net::{Arch, Mask};
    use crate::recipe::Progress;
    use crate::report::{Entry, page};
    use serde_json::json;

    fn recipe(stage: &str, seed: u64, peak: f64, choices: &[&str]) -> Recipe {
        let json = json!({
            "stage": stage, "dataset": "cifar10", "arch": "custom", "epochs": 5, "batch": 64,
            "lr": {"peak": peak, "warmup": 0.2}, "momentum": 0.9, "weight_decay": 5e-4,
            "label_smoothing": 0.0, "augment": {"crop_pad": 2, "flip": true}, "compute": "bf16",
            "seed": seed, "holdout": 9, "relu_budget": null, "choices": choices
        });
        serde_json::from_value(json).unwrap()
    }

    fn student(seed: u64, peak: f64, pram: &str, held: Option<f64>, test: f64) -> Outcome {
        let normaliser = Normaliser {
            mean: vec![0.5],
            std: vec![0.2],
        };
        let tuned = recipe("finetune", seed, peak, &[pram, "from=ab"]);
        let mut progress = Progress::new(tuned, normaliser, String::new());
        let search = recipe(
            "search",
            seed,
            0.05,
            &["selection=kink", "relus_by_layer=[1]"],
        );
        progress.history = vec![recipe("teacher", 1, 0.1, &[]), search];
        progress.holdout_accuracy = held.map(|a| a / 100.0);
        let arch = Arch::custom(&[4], 1, [3, 4, 4], 2).graph();
        let mask = |s: [i64; 3]| Mask::random(s, 3, seed);
        let masks: Vec<Mask> = arch.relu_shapes().into_iter().map(mask).collect();
        Outcome::new(&arch, &masks, &progress, test, 10)
    }

    #[test]
    fn seeds_share_a_name_and_recipes_do_not() {
        let seeds = [
            student(1, 0.05, "pram_weight=10", None, 1.0),
            student(2, 0.05, "pram_weight=10", None, 1.0),
        ];
        let two = labels(&[&seeds[0], &seeds[1]]);
        assert_eq!(two.names, ["kink", "kink"]);
        assert!(two.recipes.is_empty());
        let others = [
            student(1, 0.01, "pram_weight=10", None, 1.0),
            student(1, 0.05, "pram_weight=0", None, 1.0),
        ];
        let all = labels(&[&seeds[0], &seeds[1], &others[0], &others[1]]);
        let numbers = [1, 1, 2, 3].map(|n| format!("kink, recipe {n}"));
        assert_eq!(all.names, numbers);
        let said = [(0.05, 10), (0.01, 10), (0.05, 0)];
        let said = said.map(|(lr, w)| format!("finetune lr.peak {lr}, finetune pram_weight {w}"));
        assert_eq!(all.recipes, said);
    }

    #[test]
    fn recipes_are_ranked_by_held_out_images() {
        let outcomes = [
            student(1, 0.05, "pram_weight=1", Some(70.0), 90.0),
            student(1, 0.05, "pram_weight=2", Some(80.0), 60.0),
            student(1, 0.05, "pram_weight=3", None, 99.0),
        ];
        let entry = |outcome| Entry {
            outcome,
            masks: vec![],
        };
        let page = page(&outcomes.map(entry));
        let (_, ranked) = page.split_once("Recipes at the same budget").unwrap();
        let at = |n: u32| ranked.find(&format!("recipe {n}<")).unwrap();
        assert!(at(2) < at(1) && at(1) < at(3), "{ranked}");
    }
}
