//! Which OTs of a batch belong to which layer of which inference.

use std::ops::Range;

use pi_model::bits::packed_bytes;

use crate::wire::batch::Item;

/// What the OTs in which the server receives are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Products behind the multiplexer: the blocks are hashed to pads of k bits.
    Pads,
    /// Labels of the server's digits: the blocks themselves.
    Labels,
}

/// How many OTs one layer of one inference takes, by who receives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// The client chooses.
    pub to_client: usize,
    /// The server chooses.
    pub to_server: usize,
}

/// Which OTs of a batch belong to which layer of which inference: prefix sums, the one place that counts.
pub struct Ranges {
    /// For each layer, where its OTs of an inference begin; and last, how many an inference takes.
    to_client: Vec<usize>,
    to_server: Vec<usize>,
}

impl Ranges {
    /// For layers that take so many, in the order of the plan.
    pub fn new(counts: impl Iterator<Item = Counts>) -> Self {
        let (mut to_client, mut to_server) = (vec![0], vec![0]);
        let mut ends = Counts::default();
        for count in counts {
            ends.to_client += count.to_client;
            ends.to_server += count.to_server;
            to_client.push(ends.to_client);
            to_server.push(ends.to_server);
        }
        Self {
            to_client,
            to_server,
        }
    }

    /// OTs of one inference in which the client receives.
    pub fn n_to_client(&self) -> usize {
        self.to_client.last().copied().unwrap_or_default()
    }

    /// OTs of one inference in which the server receives.
    pub fn n_to_server(&self) -> usize {
        self.to_server.last().copied().unwrap_or_default()
    }

    /// Those of `layer` of an inference in which the client receives.
    pub fn to_client(&self, item: Item, layer: usize) -> Range<usize> {
        let first = item.index * self.n_to_client();
        first + self.to_client[layer]..first + self.to_client[layer + 1]
    }

    /// Those of `layer` of an inference in which the server receives.
    pub fn to_server(&self, item: Item, layer: usize) -> Range<usize> {
        let first = item.index * self.n_to_server();
        first + self.to_server[layer]..first + self.to_server[layer + 1]
    }
}

/// The derandomisation bits of `n` labels of one layer, or of an argmax.
pub(crate) fn choice_bytes(n: usize) -> usize {
    packed_bytes(n, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_batch_once() {
        let counts = [(3, 1), (0, 0), (14, 2)];
        let ranges = Ranges::new(counts.iter().map(|&(to_client, to_server)| Counts {
            to_client,
            to_server,
        }));
        let of = |range: &dyn Fn(Item, usize) -> Range<usize>| {
            let all = (0..4).flat_map(|index| (0..3).map(move |layer| (index, layer)));
            all.flat_map(|(index, layer)| range(Item { batch: 1, index }, layer))
                .collect::<Vec<_>>()
        };
        let to_client = of(&|item, layer| ranges.to_client(item, layer));
        let to_server = of(&|item, layer| ranges.to_server(item, layer));
        assert!(to_client.into_iter().eq(0..4 * 17));
        assert!(to_server.into_iter().eq(0..4 * 3));
    }
}
