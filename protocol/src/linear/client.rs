//! The client's half of the linear layers, offline: sources up, responses down, and the shares that follow. Online it has none.

use pi_model::plan::ResponsePlan;
use pi_model::{PublicPlan, linear};
use zeroize::Zeroizing;

use super::{layer_of_source, masks, response_messages, response_work, rlwe, source_work};
use crate::error::Result;
use crate::he;
use crate::ring::{ClientShare, Ring, Share};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Phase, Step, Wire};

/// What the client knows of one inference once the responses are in.
pub(crate) struct Draft {
    /// r of each tensor.
    pub(crate) masks: Vec<ClientShare>,
    /// y_c of each layer.
    pub(crate) accumulators: Vec<ClientShare>,
}

/// The linear layers of a batch in the making.
pub(crate) struct Preparing<'a> {
    plan: &'a PublicPlan,
    batch: &'a Batch<'a>,
    keys: &'a [he::SecretKey],
    sources: Vec<he::ClientSource>,
    /// What the responses that have come in add to each layer, all inferences in a row.
    sums: Vec<Zeroizing<Vec<u64>>>,
    n_received: usize,
}

impl<'a> Preparing<'a> {
    /// Flights 1 and 2 begin: sends every source; opens responses that are there already in between.
    pub(crate) fn send_sources<C: Channel>(
        wire: &mut Wire<C>,
        plan: &'a PublicPlan,
        batch: &'a Batch<'a>,
        keys: &'a [he::SecretKey],
    ) -> Result<Self> {
        let layers = plan.graph().layers.iter();
        let zeros = layers.map(|l| Zeroizing::new(vec![0; plan.batch() * l.shape.n_values()]));
        let mut preparing = Self {
            plan,
            batch,
            keys,
            sources: Vec::with_capacity(plan.sources().len()),
            sums: zeros.collect(),
            n_received: 0,
        };
        // The server answers each source at once. Its answers must not stop it from reading the next one.
        let responses = plan.responses().iter();
        let due = responses.map(|r| response_messages(plan, r).n_bytes(Step::HeResponse));
        wire.expect(due.sum());
        for index in 0..plan.sources().len() {
            preparing.send_source(wire, index)?;
            let answered = |r: &&ResponsePlan| r.source <= index;
            let due = |n| plan.responses().get(n).filter(answered);
            while let Some(response) = due(preparing.n_received)
                && wire.is_ready()
            {
                preparing.receive(wire, response)?;
            }
        }
        Ok(preparing)
    }

    fn send_source<C: Channel>(&mut self, wire: &mut Wire<C>, index: usize) -> Result<()> {
        let (source, batch) = (&self.plan.sources()[index], self.batch);
        let public = batch.public_seed("he c1", &[index as u64]);
        let mut rng = batch.stream("he noise", &[index as u64]);
        let (key, params) = (&self.keys[index], rlwe(source.ring)?);
        let guests = source.guests.iter().map(|&g| self.sources[g].mask());
        let guests: Vec<&[u64]> = guests.collect();
        let (state, messages) = wire.ledger.time(Phase::Offline, "encrypt", || {
            let packing = &source.packing;
            he::ClientSource::with_guests(key, &params, packing, &public, &guests, &mut rng)
        })?;
        let layer = layer_of_source(self.plan, index);
        wire.ledger.work(layer, source_work(self.plan, index));
        wire.send(batch.tag(Step::HeNoise, layer), &messages.noise)?;
        wire.send(batch.tag(Step::HeCorrections, layer), &messages.corrections)?;
        self.sources.push(state);
        Ok(())
    }

    /// Flight 2 ends: every response that has not come in yet.
    pub(crate) fn receive_rest<C: Channel>(&mut self, wire: &mut Wire<C>) -> Result<()> {
        while let Some(response) = self.plan.responses().get(self.n_received) {
            self.receive(wire, response)?;
        }
        Ok(())
    }

    /// Receives and opens the next response.
    fn receive<C: Channel>(&mut self, wire: &mut Wire<C>, response: &ResponsePlan) -> Result<()> {
        let (plan, source, layer) = (self.plan, response.source, response.layer);
        let packing = plan.packing(response);
        let params = rlwe(plan.sources()[source].ring)?;
        let tag = self.batch.tag(Step::HeResponse, layer);
        let message = wire.receive(tag, &response_messages(plan, response))?;
        wire.ledger.work(layer, response_work(plan, response));
        let opened = wire.ledger.time(Phase::Offline, "decrypt", || {
            he::decrypt(&self.keys[source], &params, packing, layer, &message)
        })?;
        plan.add(response, &mut self.sums[layer], &opened);
        self.n_received += 1;
        Ok(())
    }

    /// Masks and y_c of each inference, from all responses. Local.
    pub(crate) fn finish(self) -> Vec<Draft> {
        let (plan, graph) = (self.plan, self.plan.graph());
        let implied: Vec<&[u64]> = self.sources.iter().map(he::ClientSource::mask).collect();
        let drafts = (0..plan.batch()).map(|index| {
            let mut rng = self.batch.stream("free masks", &[index as u64]);
            let masks = masks::of_inference(plan, &implied, index, &mut rng);
            let accumulators = graph.layers.iter().enumerate().map(|(layer, node)| {
                let ring = Ring::new(plan.accumulator_bits(layer));
                let n = node.shape.n_values();
                let mut sum = self.sums[layer][index * n..(index + 1) * n].to_vec();
                linear::add_terms(node, &masks, &mut sum);
                sum.iter_mut().for_each(|s| *s = ring.reduce(*s));
                Share::new(sum)
            });
            Draft {
                accumulators: accumulators.collect(),
                masks,
            }
        });
        drafts.collect()
    }
}
