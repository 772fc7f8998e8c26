//! The client's masks: one for each tensor of each inference, implied by the ciphertexts where linear layers read it.

use pi_model::graph::{Shape, Source};
use pi_model::plan::PublicPlan;
use rand::RngCore as _;
use rand_chacha::ChaCha20Rng;

use crate::ring::{ClientShare, Ring, Share};

/// The masks of every tensor of inference `index`. `implied` holds each source's masks for the whole batch, in
/// (B, C, H, W) order; a tensor that no linear layer reads takes a fresh one.
pub(super) fn of_inference(
    plan: &PublicPlan,
    implied: &[&[u64]],
    index: usize,
    rng: &mut ChaCha20Rng,
) -> Vec<ClientShare> {
    let graph = plan.graph();
    let masks = graph.tensors.iter().enumerate().map(|(tensor, &shape)| {
        let ring = Ring::new(plan.tensor_bits(tensor));
        match graph.source_of(tensor) {
            None => (0..shape.n_values())
                .map(|_| ring.reduce(rng.next_u64()))
                .collect(),
            Some(at) => {
                let source = &graph.sources[at];
                let n = source.shape.n_values();
                unpool(
                    ring,
                    source,
                    shape,
                    &implied[at][index * n..(index + 1) * n],
                    rng,
                )
            }
        }
    });
    masks.map(Share::new).collect()
}

/// Masks of a tensor of which `pooled` are the sums over the source's windows: uniform under that condition.
fn unpool(
    ring: Ring,
    source: &Source,
    shape: Shape,
    pooled: &[u64],
    rng: &mut ChaCha20Rng,
) -> Vec<u64> {
    let [rows, columns] = source.window;
    if [rows, columns] == [1, 1] {
        return pooled.to_vec();
    }
    let mut masks = vec![0; shape.n_values()];
    let (out_rows, out_columns) = (shape.height / rows, shape.width / columns);
    for (window, &sum) in pooled.iter().enumerate() {
        let (channel, i, j) = (
            window / (out_rows * out_columns),
            window / out_columns % out_rows,
            window % out_columns,
        );
        let at = |u: usize, v: usize| {
            (channel * shape.height + i * rows + u) * shape.width + j * columns + v
        };
        let mut rest = sum;
        for u in 0..rows {
            for v in 0..columns {
                masks[at(u, v)] = ring.reduce(rng.next_u64());
                rest = rest.wrapping_sub(masks[at(u, v)]);
            }
        }
        masks[at(0, 0)] = ring.add(masks[at(0, 0)], rest);
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;
    use pi_model::linear;
    use rand::SeedableRng as _;

    #[test]
    fn masks_add_up_to_the_implied_ones_over_each_window() {
        let ring = Ring::new(24);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let shape = Shape::new(3, 4, 6);
        let source = Source {
            tensor: 0,
            window: [2, 3],
            shape: Shape::new(3, 2, 2),
            stride: 1,
        };
        let pooled: Vec<u64> = (0..12).map(|i| ring.reduce(i * 7_654_321)).collect();
        let masks = unpool(ring, &source, shape, &pooled, &mut rng);
        let sums: Vec<u64> = linear::view(&source, shape, &masks)
            .iter()
            .map(|&v| ring.reduce(v))
            .collect();
        assert_eq!(sums, pooled);
        assert!(masks.iter().all(|&m| m < 1 << 24));
    }
}
