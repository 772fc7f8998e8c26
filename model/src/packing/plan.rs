//! Chooses (B_w, C_w, O_w) for a source: fewest bytes, then fewest products. Deterministic, because both parties compute it.
//!
//! Up go `up_bits` for each coefficient of each input polynomial and `k_bits` for each correction; down come `down_bits`
//! for each coefficient of each response polynomial. With C_w = O_w = 1 and B_w = N / A every ciphertext is full both ways,
//! which preparing many inferences at once makes possible.

use super::{Block, PackingChoice, PackingError, SourcePacking, SourceSpec};

/// What a packing costs for its whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackingCost {
    /// Bytes both ways, corrections included.
    pub bytes: usize,
    /// Products of polynomials at the server.
    pub products: usize,
    /// Weight polynomials that the server transforms.
    pub weight_transforms: usize,
}

impl SourcePacking {
    /// What this packing costs with ring elements of `k_bits`, `up_bits` and `down_bits` for each coefficient.
    pub fn cost(&self, k_bits: u32, up_bits: u32, down_bits: u32) -> PackingCost {
        let down: usize = self
            .responses()
            .iter()
            .map(|r| r.response_bytes(down_bits))
            .sum();
        let products = self.responses().iter().map(|r| r.n_products()).sum();
        PackingCost {
            bytes: self.noise_bytes(up_bits) + self.correction_bytes(k_bits) + down,
            products,
            weight_transforms: products / self.n_groups(),
        }
    }
}

/// The cheapest packing of `spec` into polynomials of degree `degree`.
///
/// # Errors
/// If the geometry is not supported, or a map is larger than a polynomial.
pub fn choose(
    spec: &SourceSpec,
    degree: usize,
    k_bits: u32,
    up_bits: u32,
    down_bits: u32,
) -> Result<PackingChoice, PackingError> {
    let area = Block::new(spec, degree)?.area;
    let n_channels = spec.stride * spec.stride * spec.channels;
    let mut candidates = Vec::new();
    for images in even_shares(spec.batch, degree / area) {
        for channels in even_shares(n_channels, degree / (images * area)) {
            let room = degree / (images * channels * area);
            let inputs = spec.batch.div_ceil(images) * n_channels.div_ceil(channels);
            for filters in filter_choices(spec, room) {
                let n_responses: usize = spec
                    .consumers
                    .iter()
                    .zip(&filters)
                    .map(|(conv, o_w)| {
                        spec.batch.div_ceil(images) * conv.out_channels.div_ceil(*o_w)
                    })
                    .sum();
                let bits = inputs * up_bits as usize + n_responses * down_bits as usize;
                let choice = PackingChoice {
                    images,
                    channels,
                    filters,
                };
                candidates.push((degree * bits / 8, choice));
            }
        }
    }
    // Bytes without corrections bound a candidate from below: once they pass the best, the rest cannot win.
    candidates.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| order(x).cmp(&order(y))));
    let mut best: Option<(PackingCost, PackingChoice)> = None;
    for (least, choice) in candidates {
        if best.as_ref().is_some_and(|(cost, _)| least > cost.bytes) {
            break;
        }
        let cost = SourcePacking::new(spec, degree, &choice)?.cost(k_bits, up_bits, down_bits);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, choice));
        }
    }
    best.map(|(_, choice)| choice)
        .ok_or(PackingError::MapTooLarge { area, degree })
}

fn order(choice: &PackingChoice) -> (usize, usize, &[usize]) {
    (choice.images, choice.channels, &choice.filters)
}

/// For each number of parts, the least share that splits `n` into that many, if it is at most `max`.
fn even_shares(n: usize, max: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = (1..=n.min(max))
        .map(|share| n.div_ceil(n.div_ceil(share)))
        .collect();
    shares.dedup();
    shares
}

/// O_w for each consumer: the few largest that make a difference, all combinations.
fn filter_choices(spec: &SourceSpec, room: usize) -> Vec<Vec<usize>> {
    const FEW: usize = 4;
    spec.consumers.iter().fold(vec![Vec::new()], |lists, conv| {
        let shares = even_shares(conv.out_channels, room);
        let largest = shares.iter().rev().take(FEW);
        largest
            .flat_map(|&share| {
                lists.iter().map(move |list| {
                    let mut list = list.clone();
                    list.push(share);
                    list
                })
            })
            .collect()
    })
}
