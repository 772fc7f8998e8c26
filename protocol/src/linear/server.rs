//! The server's half of the linear layers: responses offline, convolutions on its shares online.

use std::sync::Arc;

use pi_model::linear;
use pi_model::plan::{Plan, ResponsePlan};
use zeroize::Zeroizing;

use super::{layer_of_source, response_work, rlwe, source_messages, source_work};
use crate::error::Result;
use crate::he;
use crate::ring::{Ring, ServerShare, Share};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Phase, Step, Wire};

/// The linear layers of a batch in the making.
struct Preparing<'a> {
    plan: &'a Arc<Plan>,
    batch: &'a Batch<'a>,
    keys: &'a [he::PublicKey],
    /// s of each layer so far, all inferences in a row.
    sums: Vec<Zeroizing<Vec<u64>>>,
}

/// Flights 1 and 2: answers every source as soon as it is in. Returns s for each inference and layer, terms left out.
pub(crate) fn respond<C: Channel>(
    wire: &mut Wire<C>,
    plan: &Arc<Plan>,
    batch: &Batch<'_>,
    keys: &[he::PublicKey],
) -> Result<Vec<Vec<ServerShare>>> {
    let public = plan.public();
    let layers = public.graph().layers.iter();
    let zeros = layers.map(|l| Zeroizing::new(vec![0; public.batch() * l.shape.n_values()]));
    let mut preparing = Preparing {
        plan,
        batch,
        keys,
        sums: zeros.collect(),
    };
    for index in 0..public.sources().len() {
        let source = preparing.receive_source(wire, index)?;
        for due in public.responses().iter().filter(|r| r.source == index) {
            preparing.respond(wire, &source, due)?;
        }
    }
    Ok(wire
        .ledger
        .time(Phase::Offline, "masks", || preparing.finish()))
}

impl Preparing<'_> {
    /// Noise bits and corrections of one source, ready for products.
    fn receive_source<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        index: usize,
    ) -> Result<he::ServerSource> {
        let public = self.plan.public();
        let (source, layer) = (&public.sources()[index], layer_of_source(public, index));
        let (batch, messages) = (self.batch, source_messages(public, index));
        let noise = wire.receive(batch.tag(Step::HeNoise, layer), &messages)?;
        let corrections = wire.receive(batch.tag(Step::HeCorrections, layer), &messages)?;
        wire.ledger.work(layer, source_work(public, index));
        let seed = batch.public_seed("he c1", &[index as u64]);
        let params = rlwe(source.ring)?;
        wire.ledger
            .time_of_layer(Phase::Offline, "transform", layer, || {
                let packing = &source.packing;
                he::ServerSource::new(&params, packing, &seed, layer, &noise, &corrections)
            })
    }

    fn respond<C: Channel>(
        &mut self,
        wire: &mut Wire<C>,
        source: &he::ServerSource,
        due: &ResponsePlan,
    ) -> Result<()> {
        let public = self.plan.public();
        let layer = due.layer;
        let packing = public.packing(due);
        let weights = self.plan.weights(due);
        let mut rng = self.batch.stream("he response", &stream_of(due));
        let key = &self.keys[due.source];
        let response = wire
            .ledger
            .time_of_layer(Phase::Offline, "respond", layer, || {
                source.respond(key, packing, &weights, &mut rng)
            })?;
        wire.ledger.work(layer, response_work(public, due));
        wire.send(self.batch.tag(Step::HeResponse, layer), &response.message)?;
        let sums = &mut self.sums[layer];
        wire.ledger
            .time_of_layer(Phase::Offline, "masks", layer, || {
                public.add(due, sums, &response.share);
            });
        Ok(())
    }

    fn finish(&self) -> Vec<Vec<ServerShare>> {
        let public = self.plan.public();
        let masks = |index: usize| {
            let of_layers = self.sums.iter().enumerate().map(|(layer, sum)| {
                let ring = Ring::new(public.accumulator_bits(layer));
                let n = sum.len() / public.batch();
                let of_inference = sum[index * n..(index + 1) * n].iter();
                Share::new(of_inference.map(|&v| ring.reduce(v)).collect())
            });
            of_layers.collect()
        };
        (0..public.batch()).map(masks).collect()
    }
}

/// The name of the randomness of a response within its batch. Two responses with the same u, e0 and e1 would open their weights, so it
/// names the band: several may answer the same convolution.
fn stream_of(response: &ResponsePlan) -> [u64; 2] {
    [response.source as u64, response.response as u64]
}

/// Online: the server's share of the accumulator of `layer`, W (x - r) + s. Local.
pub(crate) fn accumulate<C: Channel>(
    wire: &mut Wire<C>,
    plan: &Plan,
    layer: usize,
    tensors: &[Vec<u64>],
    mask: &ServerShare,
) -> ServerShare {
    let node = &plan.public().graph().layers[layer];
    let ring = Ring::new(plan.public().accumulator_bits(layer));
    wire.ledger
        .time_of_layer(Phase::Online, "linear", layer, || {
            let sums = linear::accumulate(plan.model(), node, tensors);
            let masked = sums.iter().zip(mask.values());
            Share::new(masked.map(|(&y, &s)| ring.add(y, s)).collect())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pi_model::random::RandomModel;
    use pi_model::spec::OutputMode;

    #[test]
    fn no_two_responses_share_their_randomness() {
        let mut net = RandomModel::new("bands", [1, 130, 130], 1);
        net.conv("a", "input", 2, 3, 1, 1).relu("r", "a", 0);
        net.conv("b", "r", 1, 3, 2, 1).conv("c", "r", 1, 1, 2, 0);
        net.add("sum", "b", "c");
        let model = net.finish(OutputMode::Logits, 1).unwrap();
        let plan = pi_model::PublicPlan::new(model.public(), 1).unwrap();
        let responses = plan.responses();
        let of_convs: std::collections::HashSet<_> =
            responses.iter().map(|r| (r.layer, r.convs[0])).collect();
        assert!(of_convs.len() < responses.len(), "no convolution has bands");
        let streams: std::collections::HashSet<_> = responses.iter().map(stream_of).collect();
        assert_eq!(streams.len(), responses.len());
    }
}
