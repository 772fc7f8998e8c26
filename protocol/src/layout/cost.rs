//! What a plan will cost, before anything runs: gates, OTs, ciphertexts, bytes and round trips, layer by layer.
//!
//! Every number is computed from the public plan alone and equals what the ledgers measure, to the byte. Left out are the
//! requests, 1 or 33 bytes each, and the one byte that answers each request to keep a batch or to run a kept inference.

mod table;

use std::collections::BTreeMap;

use pi_model::plan::PublicPlan;

use super::Layout;
use crate::error::Result;
use crate::linear;
use crate::session::{SessionOptions, setup_messages};
use crate::transfers::Extensions;
use crate::wire::ledger::Work;
use crate::wire::{Direction, Messages, Phase, Step};

/// The predicted cost of set-up, of preparing one batch, and of one inference.
#[derive(Clone, Debug)]
pub struct Cost {
    batch: usize,
    layers: Vec<LayerInfo>,
    bytes: BTreeMap<(Step, u16), u64>,
    work: BTreeMap<u16, Work>,
    round_trips: BTreeMap<Phase, u64>,
    expected_failures: f64,
}

#[derive(Clone, Debug)]
struct LayerInfo {
    name: String,
    n_positions: usize,
    n_relus: usize,
    sign_bits: u32,
}

impl Cost {
    /// The cost of `plan`.
    ///
    /// # Errors
    /// [`crate::Error::Plan`] when the plan cannot be laid out.
    pub fn of(plan: &PublicPlan) -> Result<Self> {
        Self::with_options(plan, SessionOptions::default())
    }

    /// The cost of `plan` in a session with these `options`.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn with_options(plan: &PublicPlan, options: SessionOptions) -> Result<Self> {
        let layout = Layout::new(plan, options)?;
        let infos = plan.graph().layers.iter().map(|l| LayerInfo {
            name: l.name.clone(),
            n_positions: l.shape.n_values(),
            n_relus: l.n_relus(),
            sign_bits: l.sign_bits(),
        });
        let mut cost = Self {
            batch: plan.batch(),
            layers: infos.collect(),
            bytes: BTreeMap::new(),
            work: BTreeMap::new(),
            round_trips: BTreeMap::new(),
            expected_failures: plan.expected_failures(),
        };
        cost.setup(plan, &layout);
        cost.linear_layers(plan);
        cost.batch_messages(plan.batch(), &layout);
        for relu in layout.relu_layers.iter() {
            let method = layout.method();
            cost.of_inference(relu.layer, &method.messages(relu), method.work(relu));
        }
        if let Some(argmax) = &layout.argmax {
            let messages = argmax.messages(options.garbling.scheme());
            cost.of_inference(argmax.layer, &messages, argmax.work());
        }
        cost.ends(plan, &layout);
        Ok(cost)
    }

    fn add(&mut self, layer: usize, messages: &Messages, n_times: usize) {
        for (step, n_bytes) in messages.iter().filter(|(_, n_bytes)| *n_bytes > 0) {
            *self.bytes.entry((step, layer as u16)).or_default() += (n_times * n_bytes) as u64;
        }
    }

    fn work(&mut self, layer: usize, work: Work, n_times: usize) {
        let n_times = n_times as u64;
        let entry = self.work.entry(layer as u16).or_default();
        entry.n_and_gates += n_times * work.n_and_gates;
        entry.n_ots += n_times * work.n_ots;
        entry.n_ciphertexts += n_times * work.n_ciphertexts;
    }

    fn setup(&mut self, plan: &PublicPlan, layout: &Layout) {
        let messages = setup_messages(plan, layout);
        self.add(0, &messages, 1);
        // The server's trees, where there are some, answer what the client sends after the hello.
        let n_answers = 1 + u64::from(messages.n_bytes(Step::MuxTrees) > 0);
        self.round_trips.insert(Phase::Setup, n_answers);
    }

    fn linear_layers(&mut self, plan: &PublicPlan) {
        for source in 0..plan.sources().len() {
            let layer = linear::layer_of_source(plan, source);
            self.add(layer, &linear::source_messages(plan, source), 1);
            self.work(layer, linear::source_work(plan, source), 1);
        }
        for response in plan.responses() {
            let layer = response.layer;
            self.add(layer, &linear::response_messages(plan, response), 1);
            self.work(layer, linear::response_work(plan, response), 1);
        }
    }

    /// What belongs to the whole batch and to no layer.
    fn batch_messages(&mut self, batch: usize, layout: &Layout) {
        let mut messages = Extensions::new(layout, batch).messages;
        messages.extend(layout.circuit_messages().iter());
        self.add(0, &messages, 1);
        // Without circuits and replies the client has the last word.
        let answers = [Step::HashKey, Step::LabelReply].map(|step| messages.n_bytes(step));
        let round_trips = 1 + u64::from(answers.iter().any(|n_bytes| *n_bytes > 0));
        self.round_trips.insert(Phase::Offline, round_trips);
    }

    /// What one inference takes in a layer: offline for each of the batch, online once.
    fn of_inference(&mut self, layer: usize, messages: &Messages, work: Work) {
        for (step, n_bytes) in messages.iter() {
            let n_times = match step.phase() {
                Phase::Offline => self.batch,
                Phase::Setup | Phase::Online => 1,
            };
            self.add(layer, &[(step, n_bytes)].into(), n_times);
        }
        self.work(layer, work, self.batch);
    }

    /// The two ends of the online phase.
    fn ends(&mut self, plan: &PublicPlan, layout: &Layout) {
        self.add(0, &linear::input_messages(plan), 1);
        if layout.argmax.is_none() {
            self.add(layout.last_layer(), &linear::output_messages(layout), 1);
        }
        let relus = layout.relu_layers.iter();
        let n_answers = 1 + relus.filter(|relu| relu.n_relus() > 0).count() as u64;
        self.round_trips.insert(Phase::Online, n_answers);
    }

    /// Inferences in the batch that the offline numbers are for.
    #[must_use]
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes of every (step, layer): offline for the whole batch, online for one inference.
    pub fn bytes_by_step(&self) -> impl Iterator<Item = (Step, u16, u64)> + '_ {
        self.bytes
            .iter()
            .map(|(&(step, layer), &n)| (step, layer, n))
    }

    /// Work of every layer, for the whole batch.
    pub fn work_by_layer(&self) -> impl Iterator<Item = (u16, Work)> + '_ {
        self.work.iter().map(|(&layer, &w)| (layer, w))
    }

    /// Work of all layers, for the whole batch.
    #[must_use]
    pub fn total_work(&self) -> Work {
        self.work.values().fold(Work::default(), |sum, w| Work {
            n_and_gates: sum.n_and_gates + w.n_and_gates,
            n_ots: sum.n_ots + w.n_ots,
            n_ciphertexts: sum.n_ciphertexts + w.n_ciphertexts,
        })
    }

    /// Bytes of a phase in one direction: offline for the whole batch, online for one inference.
    #[must_use]
    pub fn bytes(&self, phase: Phase, direction: Direction) -> u64 {
        self.select(|step, _| step.phase() == phase && step.direction() == direction)
    }

    /// Round trips of a phase.
    #[must_use]
    pub fn round_trips(&self, phase: Phase) -> u64 {
        self.round_trips.get(&phase).copied().unwrap_or(0)
    }

    fn select(&self, wanted: impl Fn(Step, u16) -> bool) -> u64 {
        self.bytes
            .iter()
            .filter(|((step, layer), _)| wanted(*step, *layer))
            .map(|(_, n)| n)
            .sum()
    }
}
