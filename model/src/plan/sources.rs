//! Which convolutions share a response, and how each source is packed.
//!
//! Every convolution of a layer adds into the same accumulator, but reads a source with a key of its own, so it would have a
//! response of its own. It may instead be a *guest*: its tensor is encrypted once more under the key of the source of another
//! convolution of the layer, the *host*, and one response carries both products (`packing.rs`). That costs a correction and
//! noise bits for each value that the guest reads, and saves its response. It is done where it is faster by the goal.
//!
//! Security: a guest's corrections are its mask r minus a mask r' that the host's key implies and that nothing else uses; they
//! say nothing about r as long as no message about the host's key depends on r otherwise. So the host must be the later tensor:
//! then the induction from the last key to the first, by which masks are one-time pads, covers these corrections as it covers
//! the shares that are sent beside them. See SECURITY.md, section 4.3.

use std::collections::HashMap;

use super::{DEGREE, ResponsePlan, RingPlan, SourcePlan};
use crate::error::{ModelError, Result};
use crate::graph::{Conv, Graph};
use crate::packing::{
    CoefficientBits, ConvGeometry, GuestSpec, PackingGoal, RankedPacking, SourcePacking,
    SourceSpec, rank,
};

/// Most bits by which the weights of convolutions in one response may be shifted against each other: weights have 16 bits,
/// and products must stay exact.
const MAX_SHIFT: u32 = 4;

/// One source, while it is not yet settled what it carries.
#[derive(Clone)]
struct Draft {
    ring: RingPlan,
    spec: SourceSpec,
    /// Layer and convolution of each consumer.
    consumers: Vec<(usize, usize)>,
    /// Source, layer and convolution of each guest.
    guests: Vec<(usize, usize, usize)>,
}

/// Sources as in the graph, and all responses: those of one source together, in the order of its consumers.
pub(super) fn plan(
    graph: &Graph,
    batch: usize,
    goal: &PackingGoal,
    ring_of: impl Fn(usize) -> RingPlan,
) -> Result<(Vec<SourcePlan>, Vec<ResponsePlan>)> {
    let drafts = graph.sources.iter().map(|source| Draft {
        ring: ring_of(source.tensor),
        spec: SourceSpec {
            channels: source.shape.channels,
            height: source.shape.height,
            width: source.shape.width,
            batch,
            stride: source.stride,
            consumers: vec![],
            guests: vec![],
        },
        consumers: vec![],
        guests: vec![],
    });
    let mut drafts: Vec<Draft> = drafts.collect();
    for (layer, node) in graph.layers.iter().enumerate() {
        for (conv, node) in node.convs.iter().enumerate() {
            drafts[node.source].spec.consumers.push(geometry(node));
            drafts[node.source].consumers.push((layer, conv));
        }
    }
    let mut planner = Planner {
        graph,
        goal,
        drafts,
        known: HashMap::new(),
    };
    for layer in 0..graph.layers.len() {
        planner.join_responses_of(layer)?;
    }
    let mut sources = Vec::with_capacity(planner.drafts.len());
    let mut responses = Vec::new();
    for (index, draft) in planner.drafts.clone().into_iter().enumerate() {
        let choice = planner.best(&draft)?.choice;
        let packing = SourcePacking::new(&draft.spec, DEGREE, &choice);
        for (response, &(layer, conv)) in draft.consumers.iter().enumerate() {
            let guests = draft.guests.iter().zip(&draft.spec.guests);
            let joined = guests.filter(|(_, spec)| spec.consumer == response);
            responses.push(ResponsePlan {
                source: index,
                response,
                layer,
                convs: std::iter::once(conv)
                    .chain(joined.map(|(&(_, _, conv), _)| conv))
                    .collect(),
            });
        }
        sources.push(SourcePlan {
            ring: draft.ring,
            packing: packing.map_err(|e| ModelError::Plan(e.to_string()))?,
            guests: draft.guests.iter().map(|&(source, ..)| source).collect(),
        });
    }
    Ok((sources, responses))
}

fn geometry(conv: &Conv) -> ConvGeometry {
    ConvGeometry {
        out_channels: conv.out_channels,
        kernel_h: conv.kernel[0],
        kernel_w: conv.kernel[1],
        padding: conv.padding,
    }
}

struct Planner<'a> {
    graph: &'a Graph,
    goal: &'a PackingGoal,
    drafts: Vec<Draft>,
    known: HashMap<(SourceSpec, CoefficientBits), RankedPacking>,
}

impl Planner<'_> {
    fn best(&mut self, draft: &Draft) -> Result<RankedPacking> {
        let key = (draft.spec.clone(), draft.ring.bits());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let ranked = rank(&key.0, DEGREE, key.1, self.goal, 1)
            .map_err(|e| ModelError::Plan(e.to_string()))?;
        let best = ranked
            .into_iter()
            .next()
            .ok_or_else(|| ModelError::Plan("a source cannot be packed".into()))?;
        self.known.insert(key, best.clone());
        Ok(best)
    }

    /// Makes convolutions of `layer` guests of the one that reads the latest tensor, each if that is faster.
    fn join_responses_of(&mut self, layer: usize) -> Result<()> {
        let convs = &self.graph.layers[layer].convs;
        let sources = &self.graph.sources;
        let Some(host) = (0..convs.len()).max_by_key(|&c| sources[convs[c].source].tensor) else {
            return Ok(());
        };
        for guest in (0..convs.len()).filter(|&c| c != host) {
            let (from, to) = (convs[guest].source, convs[host].source);
            // The client draws the sources' masks in their order, and needs the guest's first.
            let earlier = sources[from].tensor < sources[to].tensor && from < to;
            let near = convs[guest].shift.abs_diff(convs[host].shift) <= MAX_SHIFT;
            if !earlier || !near || self.drafts[from].ring != self.drafts[to].ring {
                continue;
            }
            let Some(joined) = self.joined(layer, guest, host) else {
                continue;
            };
            let apart = [self.drafts[from].clone(), self.drafts[to].clone()];
            // A second tensor may need larger blocks than there is room for; then it stays apart.
            let Ok(together) = self.nanoseconds(&joined) else {
                continue;
            };
            if together < self.nanoseconds(&apart)? {
                let [lighter, heavier] = joined;
                self.drafts[from] = lighter;
                self.drafts[to] = heavier;
            }
        }
        Ok(())
    }

    fn nanoseconds(&mut self, drafts: &[Draft; 2]) -> Result<u128> {
        Ok(self.best(&drafts[0])?.nanoseconds + self.best(&drafts[1])?.nanoseconds)
    }

    /// The guest's source without its convolution, and the host's with it; `None` if the former would serve nothing else, or
    /// is itself host to that convolution's guests.
    fn joined(&self, layer: usize, guest: usize, host: usize) -> Option<[Draft; 2]> {
        let convs = &self.graph.layers[layer].convs;
        let source = convs[guest].source;
        let (mut from, mut to) = (
            self.drafts[source].clone(),
            self.drafts[convs[host].source].clone(),
        );
        let at = from.consumers.iter().position(|&c| c == (layer, guest))?;
        let consumer = to.consumers.iter().position(|&c| c == (layer, host))?;
        if from.consumers.len() < 2 || from.spec.guests.iter().any(|g| g.consumer == at) {
            return None;
        }
        from.consumers.remove(at);
        let conv = from.spec.consumers.remove(at);
        for other in from.spec.guests.iter_mut().filter(|g| g.consumer > at) {
            other.consumer -= 1;
        }
        to.guests.push((source, layer, guest));
        to.spec.guests.push(GuestSpec {
            channels: from.spec.channels,
            height: from.spec.height,
            width: from.spec.width,
            stride: from.spec.stride,
            conv,
            consumer,
        });
        Some([from, to])
    }
}
