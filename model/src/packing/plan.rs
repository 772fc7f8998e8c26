//! Chooses (B_w, C_w, O_w) for a source: the least time for a [`PackingGoal`]. Deterministic, because both parties compute it.
//!
//! Up go `up_bits` for each coefficient of each input polynomial and `k_bits` for each correction; down come `down_bits`
//! for each coefficient of each response polynomial. With C_w = O_w = 1 and B_w = N / A every ciphertext is full both ways,
//! which preparing many inferences at once makes possible; fewer images leave room for more channels and filters, and so
//! for fewer transforms of weights.

use super::{Block, PackingChoice, PackingError, PackingGoal, SourcePacking, SourceSpec};

/// Bits that stand for each number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoefficientBits {
    /// For each correction, the bits k of a share.
    pub share: u32,
    /// For each coefficient of a source.
    pub up: u32,
    /// For each coefficient of a response.
    pub down: u32,
}

/// What a packing costs for its whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackingCost {
    /// Bytes both ways, corrections included.
    pub bytes: usize,
    /// Products of polynomials at the server.
    pub products: usize,
    /// Weight polynomials that the server transforms.
    pub weight_transforms: usize,
    /// Polynomials of the source.
    pub inputs: usize,
    /// Polynomials of all responses.
    pub responses: usize,
}

impl std::ops::AddAssign for PackingCost {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.products += other.products;
        self.weight_transforms += other.weight_transforms;
        self.inputs += other.inputs;
        self.responses += other.responses;
    }
}

/// A packing, what it costs, and how long that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankedPacking {
    /// The packing.
    pub choice: PackingChoice,
    /// Its cost.
    pub cost: PackingCost,
    /// Its time by the goal.
    pub nanoseconds: u128,
}

impl SourcePacking {
    /// What this packing costs with ring elements of `k_bits`, `up_bits` and `down_bits` for each coefficient.
    pub fn cost(&self, k_bits: u32, up_bits: u32, down_bits: u32) -> PackingCost {
        let mut cost = self.cost_without_corrections(up_bits, down_bits);
        cost.bytes += self.correction_bytes(k_bits);
        cost
    }

    fn cost_without_corrections(&self, up_bits: u32, down_bits: u32) -> PackingCost {
        let responses = self.responses();
        let products = responses.iter().map(|r| r.n_products()).sum();
        let bytes: usize = responses.iter().map(|r| r.response_bytes(down_bits)).sum();
        PackingCost {
            bytes: self.noise_bytes(up_bits) + bytes,
            products,
            // All groups of images share a transform.
            weight_transforms: products / self.n_groups(),
            inputs: self.n_polys(),
            responses: responses.iter().map(|r| r.n_polys()).sum(),
        }
    }
}

/// Whether a map of `spec` fits a polynomial of degree `degree`, if it can be packed at all.
#[must_use]
pub fn fits(spec: &SourceSpec, degree: usize) -> bool {
    !matches!(
        Block::new(spec, degree),
        Err(PackingError::MapTooLarge { .. })
    )
}

/// The packing of `spec` into polynomials of degree `degree` that takes the fewest bytes.
///
/// # Errors
/// As [`rank`].
pub fn choose(
    spec: &SourceSpec,
    degree: usize,
    k_bits: u32,
    up_bits: u32,
    down_bits: u32,
) -> Result<PackingChoice, PackingError> {
    let bits = CoefficientBits {
        share: k_bits,
        up: up_bits,
        down: down_bits,
    };
    let best = rank(spec, degree, bits, &PackingGoal::FEWEST_BYTES, 1)?;
    let area = Block::new(spec, degree)?.area;
    best.into_iter()
        .next()
        .map(|ranked| ranked.choice)
        .ok_or(PackingError::MapTooLarge { area, degree })
}

/// The `n_best` fastest packings of `spec` into polynomials of degree `degree` by `goal`, the fastest first; at least one.
///
/// # Errors
/// If the geometry is not supported, or a map is larger than a polynomial.
pub fn rank(
    spec: &SourceSpec,
    degree: usize,
    bits: CoefficientBits,
    goal: &PackingGoal,
    n_best: usize,
) -> Result<Vec<RankedPacking>, PackingError> {
    let block = Block::new(spec, degree)?;
    let area = block.area;
    let mut candidates = Vec::new();
    for images in even_shares(spec.batch, degree / area) {
        for channels in even_shares(block.n_channels(), degree / (images * area)) {
            let room = degree / (images * channels * area);
            for filters in filter_choices(spec, room) {
                let choice = PackingChoice {
                    images,
                    channels,
                    filters,
                };
                // A choice may fill a polynomial so far that products would wrap twice.
                let Ok(packing) = SourcePacking::new(spec, degree, &choice) else {
                    continue;
                };
                let least = packing.cost_without_corrections(bits.up, bits.down);
                candidates.push((goal.nanoseconds(&least), choice));
            }
        }
    }
    // The time without corrections bounds a candidate from below: once it passes the best, the rest cannot win.
    candidates.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| order(x).cmp(&order(y))));
    let mut best: Vec<RankedPacking> = Vec::new();
    for (least, choice) in candidates {
        if best.len() >= n_best.max(1) && best.last().is_some_and(|b| least > b.nanoseconds) {
            break;
        }
        let packing = SourcePacking::new(spec, degree, &choice)?;
        let cost = packing.cost(bits.share, bits.up, bits.down);
        let nanoseconds = goal.nanoseconds(&cost);
        let at = best.partition_point(|b| b.nanoseconds <= nanoseconds);
        best.insert(
            at,
            RankedPacking {
                choice,
                cost,
                nanoseconds,
            },
        );
        best.truncate(n_best.max(1));
    }
    Ok(best)
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
    // The combinations of many consumers would take too long to try.
    let few = match spec.consumers.len() {
        0..=3 => 4,
        4..=6 => 2,
        _ => 1,
    };
    spec.consumers.iter().fold(vec![Vec::new()], |lists, conv| {
        let shares = even_shares(conv.out_channels, room);
        let largest = shares.iter().rev().take(few);
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
