//! The client's masks: one for each tensor of each inference, implied by the ciphertexts where linear layers read it.

use pi_model::graph::{Shape, View};
use pi_model::plan::{PublicPlan, RingPlan};
use rand::RngCore as _;
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use crate::ring::{ClientShare, Ring, Share};

/// The masks of every tensor of inference `index`. `implied` holds the masks of each source, or band of one, of the plan for the
/// whole batch, in (B, C, H, W) order; what no linear layer reads takes fresh ones.
pub(super) fn of_inference(
    plan: &PublicPlan,
    implied: &[&[u64]],
    index: usize,
    rng: &mut ChaCha20Rng,
) -> Vec<ClientShare> {
    let graph = plan.graph();
    let sources: Vec<_> = (0..graph.sources.len())
        .map(|source| assemble(plan, implied, source, index, rng))
        .collect();
    let masks = graph.tensors.iter().enumerate().map(|(tensor, &shape)| {
        let ring = Ring::new(plan.tensor_bits(tensor));
        match graph.source_of(tensor) {
            None => fresh(ring, shape.n_values(), rng),
            Some(at) => unpool(
                ring,
                &graph.sources[at].view,
                tensor,
                shape,
                &sources[at],
                rng,
            ),
        }
    });
    masks.map(Share::new).collect()
}

fn fresh(ring: Ring, n: usize, rng: &mut ChaCha20Rng) -> Vec<u64> {
    (0..n).map(|_| ring.reduce(rng.next_u64())).collect()
}

/// The mask of a whole source, from those of its bands. Where no band is, because nothing reads it, it is fresh.
fn assemble(
    plan: &PublicPlan,
    implied: &[&[u64]],
    source: usize,
    index: usize,
    rng: &mut ChaCha20Rng,
) -> Zeroizing<Vec<u64>> {
    let shape = plan.graph().sources[source].shape;
    let size = [shape.height, shape.width];
    let bands = plan.sources().iter().zip(implied);
    let bands: Vec<_> = bands.filter(|(band, _)| band.source == source).collect();
    let covered: usize = bands.iter().map(|(band, _)| band.band.area()).sum();
    let mut tensors = plan.graph().sources[source].view.tensors();
    let bits = tensors.next().map(|tensor| plan.tensor_bits(tensor));
    let ring = Ring::new(bits.unwrap_or(RingPlan::INNER.share_bits));
    let mut mask = if covered < shape.height * shape.width {
        fresh(ring, shape.n_values(), rng)
    } else {
        vec![0; shape.n_values()]
    };
    for (band, values) in bands {
        let n = shape.channels * band.band.area();
        let lines = values[index * n..(index + 1) * n].chunks_exact(band.band.size[1]);
        for (start, line) in band.band.lines(size).zip(lines) {
            mask[start..start + line.len()].copy_from_slice(line);
        }
    }
    Zeroizing::new(mask)
}

/// Masks of tensor `tensor` of a source of which `pooled` are the masks, the sums over its windows: uniform under that condition.
fn unpool(
    ring: Ring,
    view: &View,
    tensor: usize,
    shape: Shape,
    pooled: &[u64],
    rng: &mut ChaCha20Rng,
) -> Vec<u64> {
    let mut masks = vec![0; shape.n_values()];
    let (out_rows, out_columns) = (view.rows.count, view.columns.count);
    let mut planes = pooled.chunks_exact(out_rows * out_columns);
    for run in &view.runs {
        for channel in run.first..run.first + run.count {
            let plane = planes.next().unwrap_or_default();
            if run.tensor != Some(tensor) {
                continue;
            }
            let start = channel * shape.height * shape.width;
            let map = &mut masks[start..start + shape.height * shape.width];
            spread(ring, view.window(), plane, map, shape.width, rng);
        }
    }
    masks
}

/// Values of one channel whose sums over the windows are `sums`.
fn spread(
    ring: Ring,
    [rows, columns]: [usize; 2],
    sums: &[u64],
    map: &mut [u64],
    width: usize,
    rng: &mut ChaCha20Rng,
) {
    if [rows, columns] == [1, 1] {
        map.copy_from_slice(sums);
        return;
    }
    let out_columns = width / columns;
    for (window, &sum) in sums.iter().enumerate() {
        let (i, j) = (window / out_columns, window % out_columns);
        let at = |u: usize, v: usize| (i * rows + u) * width + j * columns + v;
        let mut rest = sum;
        for u in 0..rows {
            for v in 0..columns {
                map[at(u, v)] = ring.reduce(rng.next_u64());
                rest = rest.wrapping_sub(map[at(u, v)]);
            }
        }
        map[at(0, 0)] = ring.add(map[at(0, 0)], rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pi_model::graph::{Run, Span};
    use rand::SeedableRng as _;

    #[test]
    fn masks_add_up_to_the_implied_ones_over_each_window() {
        let ring = Ring::new(24);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let shape = Shape::new(3, 4, 6);
        let windows = |size, count| Span {
            first: 0,
            step: size,
            size,
            count,
        };
        let mut view = View::whole(0, shape);
        // The channels of a second tensor stand before the last two.
        view.runs = [(0, 0, 1), (1, 0, 2), (0, 1, 2)]
            .map(|(tensor, first, count)| Run {
                tensor: Some(tensor),
                first,
                count,
            })
            .to_vec();
        (view.rows, view.columns) = (windows(2, 2), windows(3, 2));
        let pooled: Vec<u64> = (0..20).map(|i| ring.reduce(i * 7_654_321)).collect();
        let shapes = [shape, Shape::new(2, 4, 6)];
        assert!(view.covers(&shapes));
        let masks = [0, 1].map(|t| unpool(ring, &view, t, shapes[t], &pooled, &mut rng));
        let sums = view.apply(&masks);
        assert!(sums.iter().map(|&v| ring.reduce(v)).eq(pooled));
        assert!(masks.iter().flatten().all(|&m| m < 1 << 24));
    }
}
