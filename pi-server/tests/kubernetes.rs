//! What the manifests in `deploy/` select: our pods, all of them, and no others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

fn manifests() -> Vec<(PathBuf, Value)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
                found.extend(documents.into_iter().map(|value| (path.clone(), value)));
            }
        }
    }
    found
}

/// Where each kind of object says which pods it is about.
const SELECTORS: [(&str, &str); 5] = [
    ("Deployment", "/spec/selector/matchLabels"),
    ("Service", "/spec/selector"),
    ("PodDisruptionBudget", "/spec/selector/matchLabels"),
    ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ("PodMonitor", "/spec/selector/matchLabels"),
];

/// Kinds that are about no pods, or name what they are about.
const OTHERS: [&str; 4] = [
    "ServiceAccount",
    "Kustomization",
    "Component",
    "HorizontalPodAutoscaler",
];

fn labels(value: &Value, at: &str) -> Option<Map<String, Value>> {
    value.pointer(at)?.as_object().cloned()
}

#[test]
fn every_selector_is_there_and_selects_our_pods_alone() {
    let all = manifests();
    let of_kind = |kind: &'static str| all.iter().filter(move |(_, m)| m["kind"] == kind);
    let (_, deployment) = of_kind("Deployment").next().unwrap();
    let ours = labels(deployment, "/spec/template/metadata/labels").unwrap();
    let selects = |selector: &Map<String, Value>, pod: &Map<String, Value>| {
        selector
            .iter()
            .all(|(key, value)| pod.get(key) == Some(value))
    };
    let other = Map::from_iter([("app.kubernetes.io/name".into(), "another".into())]);
    for (kind, at) in SELECTORS {
        assert!(of_kind(kind).count() > 0, "no {kind}");
        for (path, manifest) in of_kind(kind) {
            let file = path.display();
            let selector = labels(manifest, at).unwrap_or_default();
            assert!(
                selects(&selector, &ours),
                "{file} misses our pods: {selector:?}"
            );
            assert!(
                !selects(&selector, &other),
                "{file} takes other pods: {selector:?}"
            );
        }
    }
    for (path, manifest) in &all {
        let known = manifest["kind"].as_str().is_none_or(|kind| {
            OTHERS.contains(&kind) || SELECTORS.iter().any(|(known, _)| *known == kind)
        });
        assert!(known, "{}: say here what it selects", path.display());
    }
}
