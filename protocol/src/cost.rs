//! What a plan will cost, before anything runs: gates, OTs, ciphertexts, bytes and round trips, layer by layer.
//!
//! Every number is computed from the public plan alone and equals what the ledgers measure, to the byte. Left out are the
//! requests, 1 or 33 bytes each, and the one byte that answers each request to keep a batch or to run a kept inference.

use std::collections::BTreeMap;
use std::fmt;

use pi_model::bits::packed_bytes;
use pi_model::plan::PublicPlan;

use crate::block::{ActiveLabel, Block};
use crate::error::Result;
use crate::gc::GarblingMode;
use crate::he;
use crate::layout::Layout;
use crate::ledger::{Direction, Phase, Work};
use crate::ot::mode::OtMode;
use crate::ot::softspoken;
use crate::session::{HELLO_BYTES, HELLO_REPLY_BYTES, SessionOptions};
use crate::sizes;
use crate::wire::Step;

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
        let layout = Layout::new(plan)?;
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
        cost.transfers(plan.batch(), &layout, options.ot);
        cost.relu_layers(plan.batch(), &layout, options.garbling);
        cost.online(plan, &layout);
        Ok(cost)
    }

    fn add(&mut self, step: Step, layer: usize, n_bytes: usize) {
        if n_bytes > 0 {
            *self.bytes.entry((step, layer as u16)).or_default() += n_bytes as u64;
        }
    }

    fn work(&mut self, layer: usize) -> &mut Work {
        self.work.entry(layer as u16).or_default()
    }

    fn setup(&mut self, plan: &PublicPlan, layout: &Layout) {
        self.add(Step::Hello, 0, HELLO_BYTES);
        self.add(Step::HelloReply, 0, HELLO_REPLY_BYTES);
        self.add(
            Step::PublicKeys,
            0,
            plan.sources().len() * he::public_key_bytes(),
        );
        let mut round_trips = 1;
        if layout.n_relus() > 0 {
            self.add(Step::MuxBase, 0, softspoken::BASE_RECEIVER_BYTES);
            self.add(Step::MuxTrees, 0, softspoken::TREES_BYTES);
            round_trips += 1;
        }
        self.round_trips.insert(Phase::Setup, round_trips);
    }

    fn linear_layers(&mut self, plan: &PublicPlan) {
        for (index, source) in plan.sources().iter().enumerate() {
            let layer = sizes::layer_of_source(plan, index);
            self.add(
                Step::HeNoise,
                layer,
                source.packing.noise_bytes(source.ring.up_bits()),
            );
            self.add(
                Step::HeCorrections,
                layer,
                source.packing.correction_bytes(source.ring.share_bits),
            );
            self.work(layer).n_ciphertexts += source.packing.n_polys() as u64;
        }
        for response in plan.responses() {
            let packing = plan.packing(response);
            let down_bits = plan.sources()[response.source].ring.down_bits();
            self.add(
                Step::HeResponse,
                response.layer,
                packing.response_bytes(down_bits),
            );
            self.work(response.layer).n_ciphertexts += packing.n_polys() as u64;
        }
    }

    fn transfers(&mut self, batch: usize, layout: &Layout, ot: OtMode) {
        let n_labels = batch * layout.n_labels();
        self.round_trips.insert(Phase::Offline, 1);
        if n_labels == 0 {
            return;
        }
        self.add(Step::LabelBase, 0, softspoken::BASE_SENDER_BYTES);
        self.add(Step::LabelBaseReply, 0, softspoken::BASE_RECEIVER_BYTES);
        self.add(Step::LabelTrees, 0, softspoken::TREES_BYTES);
        self.add(Step::LabelExtension, 0, ot.message_bytes(n_labels));
        self.add(Step::LabelReply, 0, ot.reply_bytes(n_labels));
        let n_products = batch * layout.n_relus();
        self.add(Step::MuxExtension, 0, ot.message_bytes(n_products));
        self.add(Step::MuxReply, 0, ot.reply_bytes(n_products));
        self.add(Step::HashKey, 0, Block::BYTES);
        self.round_trips.insert(Phase::Offline, 2);
    }

    fn relu_layers(&mut self, batch: usize, layout: &Layout, mode: GarblingMode) {
        for relu in &layout.relu_layers {
            let (layer, n) = (relu.layer, relu.n_relus());
            self.add(
                Step::LabelBits,
                layer,
                batch * packed_bytes(relu.n_labels(), 1),
            );
            self.add(Step::MuxCorrections, layer, batch * relu.result_bytes());
            self.add(Step::Identity, layer, batch * relu.identity_bytes());
            let n_gates = n * relu.circuit.n_and();
            let n_bytes = n * mode.instance_bytes(relu.circuit.n_and());
            self.add(Step::Tables, layer, batch * n_bytes);
            self.work(layer).n_and_gates += (batch * n_gates) as u64;
            self.work(layer).n_ots += (batch * (relu.n_labels() + n)) as u64;
        }
        if let Some(argmax) = &layout.argmax {
            let last = layout.last_layer();
            self.add(
                Step::LabelBits,
                last,
                batch * packed_bytes(argmax.n_labels(), 1),
            );
            self.add(
                Step::Tables,
                last,
                batch * mode.instance_bytes(argmax.circuit.n_and()),
            );
            self.work(last).n_and_gates += (batch * argmax.circuit.n_and()) as u64;
            self.work(last).n_ots += (batch * argmax.n_labels()) as u64;
        }
    }

    fn online(&mut self, plan: &PublicPlan, layout: &Layout) {
        self.add(
            Step::Input,
            0,
            packed_bytes(plan.graph().tensors[0].n_values(), plan.tensor_bits(0)),
        );
        let mut round_trips = 1;
        for relu in layout.relu_layers.iter().filter(|r| r.n_relus() > 0) {
            self.add(
                Step::Labels,
                relu.layer,
                relu.n_labels() * ActiveLabel::BYTES,
            );
            self.add(Step::MuxCiphertexts, relu.layer, relu.result_bytes());
            self.add(Step::ReluResults, relu.layer, relu.result_bytes());
            round_trips += 1;
        }
        let last = layout.last_layer();
        match &layout.argmax {
            Some(argmax) => {
                self.add(Step::Labels, last, argmax.n_labels() * ActiveLabel::BYTES);
                self.add(Step::DecodeBits, last, argmax.circuit.n_outputs());
            }
            None => self.add(
                Step::Logits,
                last,
                packed_bytes(layout.n_outputs, layout.output_ring.bits()),
            ),
        }
        self.round_trips.insert(Phase::Online, round_trips);
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

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kb = |n: u64| format!("{:.1}", n as f64 / 1e3);
        let batch = self.batch as u64;
        writeln!(
            f,
            "Predicted cost of one inference, prepared in a batch of {batch}; kB = 1000 bytes."
        )?;
        writeln!(
            f,
            "{:<22} {:>9} {:>8} {:>4} {:>10} {:>9} {:>8} {:>11} {:>11} {:>10}",
            "layer",
            "positions",
            "ReLUs",
            "l",
            "AND gates",
            "OTs",
            "cipher-",
            "offline up",
            "offline down",
            "online"
        )?;
        writeln!(
            f,
            "{:<22} {:>9} {:>8} {:>4} {:>10} {:>9} {:>8} {:>11} {:>11} {:>10}",
            "", "", "", "bits", "", "", "texts", "kB", "kB", "kB"
        )?;
        for (index, info) in self.layers.iter().enumerate() {
            let layer = index as u16;
            let work = self.work.get(&layer).copied().unwrap_or_default();
            let of = |phase, direction| {
                self.select(|s, l| {
                    l == layer
                        && s.phase() == phase
                        && s.direction() == direction
                        && !is_transfer(s)
                })
            };
            let online = of(Phase::Online, Direction::Up) + of(Phase::Online, Direction::Down);
            let bits = if info.n_relus > 0 {
                info.sign_bits.to_string()
            } else {
                "-".into()
            };
            writeln!(
                f,
                "{:<22} {:>9} {:>8} {:>4} {:>10} {:>9} {:>8.1} {:>11} {:>11} {:>10}",
                info.name,
                info.n_positions,
                info.n_relus,
                bits,
                work.n_and_gates / batch,
                work.n_ots / batch,
                work.n_ciphertexts as f64 / batch as f64,
                kb(of(Phase::Offline, Direction::Up) / batch),
                kb(of(Phase::Offline, Direction::Down) / batch),
                kb(online),
            )?;
        }
        let transfers = |direction| {
            self.select(|s, _| {
                is_transfer(s) && s.phase() == Phase::Offline && s.direction() == direction
            }) / batch
        };
        writeln!(
            f,
            "{:<22} {:>9} {:>8} {:>4} {:>10} {:>9} {:>8} {:>11} {:>11} {:>10}",
            "OT extension",
            "",
            "",
            "",
            "",
            "",
            "",
            kb(transfers(Direction::Up)),
            kb(transfers(Direction::Down)),
            ""
        )?;
        let total = self.total_work();
        let relus: usize = self.layers.iter().map(|l| l.n_relus).sum();
        let positions: usize = self
            .layers
            .iter()
            .take(self.layers.len().saturating_sub(1))
            .map(|l| l.n_positions)
            .sum();
        let online =
            self.bytes(Phase::Online, Direction::Up) + self.bytes(Phase::Online, Direction::Down);
        writeln!(
            f,
            "{:<22} {:>9} {:>8} {:>4} {:>10} {:>9} {:>8.1} {:>11} {:>11} {:>10}",
            "total",
            positions,
            relus,
            "",
            total.n_and_gates / batch,
            total.n_ots / batch,
            total.n_ciphertexts as f64 / batch as f64,
            kb(self.bytes(Phase::Offline, Direction::Up) / batch),
            kb(self.bytes(Phase::Offline, Direction::Down) / batch),
            kb(online),
        )?;
        writeln!(
            f,
            "Set-up, once for each client: {} kB up, {} kB down. Round trips: {} set-up, {} offline for the batch, {} online.",
            kb(self.bytes(Phase::Setup, Direction::Up)),
            kb(self.bytes(Phase::Setup, Direction::Down)),
            self.round_trips(Phase::Setup),
            self.round_trips(Phase::Offline),
            self.round_trips(Phase::Online),
        )?;
        write!(
            f,
            "Values that a wrap of the truncation spoils, expected in one inference at the calibrated ranges: at most {:.1e}.",
            self.expected_failures
        )
    }
}

const fn is_transfer(step: Step) -> bool {
    matches!(
        step,
        Step::LabelBase
            | Step::LabelBaseReply
            | Step::LabelTrees
            | Step::LabelExtension
            | Step::MuxExtension
            | Step::LabelReply
            | Step::MuxReply
            | Step::HashKey
    )
}
