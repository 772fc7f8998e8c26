//! The mask search on a tiny network: budgets, whole channels, emptied layers, when it stops.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use pi_trainer::budget;
use pi_trainer::checkpoint::{self};
use pi_trainer::net::Net;
use pi_trainer::run::Progress;
use pi_trainer::search::{Options, Search};
use pi_trainer::selection::Selection;

#[test]
fn every_selection_keeps_the_budget_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(24);
    let kept = budget::allocate(
        &arch().graph().relu_counts(),
        &[0.8, 0.6, 0.5, 0.2, 0.1],
        200,
    )
    .unwrap();
    for selection in [
        Selection::Senet,
        Selection::Removal,
        Selection::Taylor,
        Selection::Kink,
        Selection::Anneal,
        Selection::AnnealTaylor,
        Selection::AnnealKink,
    ] {
        let options = Options::new(selection);
        let mut search = Search::new(Net::new(&arch(), 1), &kept, 7, 4, 1, options).unwrap();
        let path = dir.path().join(format!("{selection:?}"));
        train_with(
            &mut search,
            &Net::new(&arch(), 1),
            &set,
            &path,
            None,
            &|_| {},
        );
        let masks = checkpoint::load_masks(&arch().graph(), &tensors(&path), &path).unwrap();
        let by_layer: Vec<usize> = masks.iter().map(|m| m.n_kept()).collect();
        assert_eq!(by_layer, kept, "{selection:?}");
    }
}

#[test]
fn whole_channels_add_up_whatever_follows_the_scores() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(24);
    let shapes = arch().graph().relu_shapes();
    let planes: Vec<usize> = shapes.iter().map(|s| (s[1] * s[2]) as usize).collect();
    let total = 2 * planes[0] + 4 * planes[4];
    for (n, (budgets_from_scores, empty_layers)) in [(true, 0), (false, 1), (true, 1), (false, 0)]
        .into_iter()
        .enumerate()
    {
        let options = Options {
            per_channel: true,
            budgets_from_scores,
            empty_layers,
            ..Options::new(Selection::Kink)
        };
        let kept = [planes[0], planes[1], 0, 2 * planes[3], 2 * planes[4]];
        assert_eq!(kept.iter().sum::<usize>(), total);
        let mut search = Search::new(Net::new(&arch(), 1), &kept, 7, 4, 1, options).unwrap();
        let whole = |masks: &[pi_trainer::net::Mask]| {
            for (mask, &plane) in masks.iter().zip(&planes) {
                let channels = mask.keep.chunks(plane);
                let all_or_none = |c: &[bool]| c.iter().all(|&k| k == c[0]);
                assert!(channels.into_iter().all(all_or_none));
            }
            masks.iter().map(|m| m.n_kept()).sum::<usize>()
        };
        assert_eq!(whole(search.masks.masks()), total, "at first");
        let (path, net) = (dir.path().join(n.to_string()), Net::new(&arch(), 1));
        train_with(&mut search, &net, &set, &path, None, &|_| {});
        let masks = checkpoint::load_masks(&arch().graph(), &tensors(&path), &path).unwrap();
        assert_eq!(whole(&masks), total, "{budgets_from_scores} {empty_layers}");
    }
}

#[test]
fn a_search_that_settles_trains_once_more_under_its_masks() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(24);
    let kept = budget::allocate(&arch().graph().relu_counts(), &[0.5; 5], 200).unwrap();
    let options = Options {
        // Any change is small enough.
        stop_distance: Some(1.0),
        ..Options::new(Selection::Senet)
    };
    let path = dir.path().join("search");
    let mut search = Search::new(Net::new(&arch(), 1), &kept, 7, 4, 1, options).unwrap();
    let net = Net::new(&arch(), 1);
    train_with(&mut search, &net, &set, &path, None, &|_| {});
    let (done, _) = checkpoint::load::<Progress>(&path).unwrap();
    assert!(done.finished());
    let notes: Vec<&str> = done.curve.iter().map(|e| e.note.as_str()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("moved by") && notes[1].contains("as they were"));
    // Stopped between the two, it still knows.
    let path = dir.path().join("stopped");
    let options = Options {
        stop_distance: Some(1.0),
        ..Options::new(Selection::Senet)
    };
    for max_steps in [Some(7), None] {
        let net = Net::new(&arch(), 1);
        let mut search =
            Search::new(Net::new(&arch(), 1), &kept, 7, 4, 1, options.clone()).unwrap();
        train_with(&mut search, &net, &set, &path, max_steps, &|_| {});
    }
    let (done, _) = checkpoint::load::<Progress>(&path).unwrap();
    assert_eq!(done.curve.len(), 2);
}

#[test]
fn layers_that_cannot_be_emptied_are_refused_before_the_first_epoch() {
    let kept = budget::allocate(
        &arch().graph().relu_counts(),
        &[0.8, 0.6, 0.5, 0.2, 0.1],
        301,
    )
    .unwrap();
    let refused = |selection, empty_layers, budgets_from_scores| {
        let mut options = Options::new(selection);
        (options.empty_layers, options.budgets_from_scores) = (empty_layers, budgets_from_scores);
        let search = Search::new(Net::new(&arch(), 1), &kept, 7, 4, 1, options);
        search.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refused(Selection::Kink, 5, false).contains("5 of 5 layers"));
    assert_eq!(refused(Selection::Kink, 1, true), "");
    assert!(refused(Selection::Removal, 1, false).contains("anneal-kink"));
    assert!(refused(Selection::Senet, 0, true).contains("anneal-kink"));
}
