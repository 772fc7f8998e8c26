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

use super::bands::{self, Region};
use super::{DEGREE, ResponsePlan, RingPlan, SourcePlan};
use crate::error::{ModelError, Result};
use crate::graph::{Conv, Graph};
use crate::packing::{
    CoefficientBits, GuestSpec, PackingGoal, RankedPacking, SourcePacking, SourceSpec, fits, rank,
};

/// Most bits by which the weights of convolutions in one response may be shifted against each other: weights have 16 bits,
/// and products must stay exact.
const MAX_SHIFT: u32 = 4;

/// One source, or one band of it, while it is not yet settled what it carries.
#[derive(Clone)]
struct Draft {
    ring: RingPlan,
    source: usize,
    band: Region,
    spec: SourceSpec,
    consumers: Vec<Consumer>,
    /// Draft and convolution of each guest.
    guests: Vec<(usize, usize)>,
}

/// A convolution that reads a source, and the outputs that it makes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Consumer {
    layer: usize,
    conv: usize,
    out: Region,
}

/// Sources as in the graph, in bands where they have to be, and all responses: those of one source together, in the order of its
/// consumers.
pub(super) fn plan(
    graph: &Graph,
    batch: usize,
    goal: &PackingGoal,
    ring_of: impl Fn(usize) -> RingPlan,
) -> Result<(Vec<SourcePlan>, Vec<ResponsePlan>)> {
    let mut planner = Planner {
        graph,
        goal,
        batch,
        drafts: vec![],
        known: HashMap::new(),
    };
    for (index, source) in graph.sources.iter().enumerate() {
        let rings = source.view.tensors().map(&ring_of);
        let ring = rings
            .max_by_key(|r| r.share_bits)
            .unwrap_or(RingPlan::INNER);
        let drafts = planner.drafts_of(index, ring)?;
        planner.drafts.extend(drafts);
    }
    for layer in 0..graph.layers.len() {
        planner.join_responses_of(layer)?;
    }
    let mut sources = Vec::with_capacity(planner.drafts.len());
    let mut responses = Vec::new();
    for (index, draft) in planner.drafts.clone().into_iter().enumerate() {
        let choice = planner.best(&draft)?.choice;
        let packing = SourcePacking::new(&draft.spec, DEGREE, &choice);
        for (response, consumer) in draft.consumers.iter().enumerate() {
            let guests = draft.guests.iter().zip(&draft.spec.guests);
            let joined = guests.filter(|(_, spec)| spec.consumer == response);
            responses.push(ResponsePlan {
                source: index,
                response,
                layer: consumer.layer,
                convs: std::iter::once(consumer.conv)
                    .chain(joined.map(|(&(_, conv), _)| conv))
                    .collect(),
                out: consumer.out,
            });
        }
        sources.push(SourcePlan {
            source: draft.source,
            band: draft.band,
            ring: draft.ring,
            packing: packing.map_err(|e| ModelError::Plan(e.to_string()))?,
            guests: draft.guests.iter().map(|&(source, _)| source).collect(),
        });
    }
    Ok((sources, responses))
}

struct Planner<'a> {
    graph: &'a Graph,
    goal: &'a PackingGoal,
    batch: usize,
    drafts: Vec<Draft>,
    known: HashMap<(SourceSpec, CoefficientBits), RankedPacking>,
}

impl Planner<'_> {
    /// Source `index` as it is if it fits a polynomial, else in the bands that take the least time.
    fn drafts_of(&mut self, index: usize, ring: RingPlan) -> Result<Vec<Draft>> {
        let source = &self.graph.sources[index];
        let shape = source.shape;
        let size = [shape.height, shape.width];
        let whole: Vec<Draft> = self.bands(index, ring, &[Region::whole(size)]);
        if whole.is_empty() {
            return Err(ModelError::Plan(
                "a convolution reads nothing but padding; leave it out".into(),
            ));
        }
        let fits = |drafts: &[Draft]| drafts.iter().all(|d| fits(&d.spec, DEGREE));
        if fits(&whole) {
            return Ok(whole);
        }
        let sizes = bands::candidates(source, |height, width| {
            let all = bands::cut(source, height, width);
            fits(&self.bands(index, ring, &all[..all.len().min(1)]))
                && fits(&self.bands(index, ring, &all))
        });
        let mut best: Option<(u128, Vec<Draft>)> = None;
        for (height, width) in sizes {
            let drafts = self.bands(index, ring, &bands::cut(source, height, width));
            let times = drafts.iter().map(|d| Ok(self.best(d)?.nanoseconds));
            // Some cuts cannot be packed; others can.
            let Ok(time) = times.sum::<Result<u128>>() else {
                continue;
            };
            if best.as_ref().is_none_or(|(least, _)| time < *least) {
                best = Some((time, drafts));
            }
        }
        match best {
            Some((_, drafts)) => Ok(drafts),
            // The whole says why.
            None => match whole.first() {
                Some(draft) => Err(self
                    .best(draft)
                    .err()
                    .unwrap_or_else(|| ModelError::Plan("a map cannot be cut into bands".into()))),
                None => Err(ModelError::Plan("a source that nothing reads".into())),
            },
        }
    }

    /// A draft for each band of source `index` that any convolution reads.
    fn bands(&self, index: usize, ring: RingPlan, regions: &[Region]) -> Vec<Draft> {
        let source = &self.graph.sources[index];
        let layers = self.graph.layers.iter().enumerate();
        let readers: Vec<(usize, usize, &Conv)> = layers
            .flat_map(|(layer, node)| {
                let convs = node.convs.iter().enumerate();
                let read = convs.filter(|(_, conv)| conv.source == index);
                read.map(move |(conv, node)| (layer, conv, node))
            })
            .collect();
        let draft = |band: &Region| -> Option<Draft> {
            let (mut geometries, mut consumers) = (Vec::new(), Vec::new());
            for &(layer, conv, node) in &readers {
                if let Some((geometry, out)) = bands::conv_over(node, source.stride, band) {
                    geometries.push(geometry);
                    consumers.push(Consumer { layer, conv, out });
                }
            }
            (!consumers.is_empty()).then(|| Draft {
                ring,
                source: index,
                band: *band,
                spec: SourceSpec {
                    channels: source.shape.channels,
                    height: band.size[0],
                    width: band.size[1],
                    batch: self.batch,
                    stride: source.stride,
                    consumers: geometries,
                    guests: vec![],
                },
                consumers,
                guests: vec![],
            })
        };
        regions.iter().filter_map(draft).collect()
    }

    /// The draft of source `index`, if it is not cut into bands.
    fn whole(&self, index: usize) -> Option<usize> {
        let mut drafts = (0..self.drafts.len()).filter(|&d| self.drafts[d].source == index);
        let first = drafts.next()?;
        let shape = self.graph.sources[index].shape;
        let is_whole = self.drafts[first].band == Region::whole([shape.height, shape.width]);
        (is_whole && drafts.next().is_none()).then_some(first)
    }

    fn best(&mut self, draft: &Draft) -> Result<RankedPacking> {
        let key = (draft.spec.clone(), draft.ring.bits());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let ranked = rank(&key.0, DEGREE, key.1, self.goal, 1).map_err(|e| {
            let op = draft.consumers.first().map(|c| {
                let convs = &self.graph.layers[c.layer].convs;
                convs[c.conv].op.as_str()
            });
            ModelError::op(
                op.unwrap_or_default(),
                format!("{e}; use a smaller kernel or dilation, or a smaller image"),
            )
        })?;
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
        let latest = |c: usize| {
            let tensors = self.graph.sources[convs[c].source].view.tensors();
            tensors.max().unwrap_or(0)
        };
        let Some(host) = (0..convs.len()).max_by_key(|&c| latest(c)) else {
            return Ok(());
        };
        let last_of_host = latest(host);
        let earlier: Vec<usize> = (0..convs.len())
            .filter(|&c| c != host && latest(c) < last_of_host)
            .collect();
        let Some(to) = self.whole(convs[host].source) else {
            return Ok(());
        };
        for guest in earlier {
            let Some(from) = self.whole(convs[guest].source) else {
                continue;
            };
            let near = convs[guest].shift.abs_diff(convs[host].shift) <= MAX_SHIFT;
            // The client draws the sources' masks in their order, and needs the guest's first.
            if from >= to || !near || self.drafts[from].ring != self.drafts[to].ring {
                continue;
            }
            let Some(joined) = self.joined((from, to), layer, guest, host) else {
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
    fn joined(
        &self,
        (source, host_source): (usize, usize),
        layer: usize,
        guest: usize,
        host: usize,
    ) -> Option<[Draft; 2]> {
        let (mut from, mut to) = (
            self.drafts[source].clone(),
            self.drafts[host_source].clone(),
        );
        let place = |draft: &Draft, conv: usize| {
            let mut consumers = draft.consumers.iter();
            consumers.position(|c| (c.layer, c.conv) == (layer, conv))
        };
        let at = place(&from, guest)?;
        let consumer = place(&to, host)?;
        if from.consumers.len() < 2 || from.spec.guests.iter().any(|g| g.consumer == at) {
            return None;
        }
        from.consumers.remove(at);
        let conv = from.spec.consumers.remove(at);
        for other in from.spec.guests.iter_mut().filter(|g| g.consumer > at) {
            other.consumer -= 1;
        }
        to.guests.push((source, guest));
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
