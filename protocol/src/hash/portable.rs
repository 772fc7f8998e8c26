//! The scalar twin of the AES kernels, on the `aes` crate: any processor, in constant time.

use aes::Aes128Enc;
use aes::cipher::{BlockEncrypt, KeyInit};

use super::simd::{KEYS, LANES, Row, Simd};
use crate::block::{Block, mask};

/// The low half of a lane.
const LOW: u128 = u64::MAX as u128;

/// Needs nothing of the processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type Lanes = [u128; LANES];
    type Keys = [Aes128Enc; KEYS];

    fn load(self, row: &Row) -> Self::Lanes {
        row.0.map(|x| x.0)
    }

    fn store(self, x: Self::Lanes, row: &mut Row) {
        row.0 = x.map(Block);
    }

    fn splat(self, x: u128) -> Self::Lanes {
        [x; LANES]
    }

    fn xor(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| x[i] ^ y[i])
    }

    fn and(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| x[i] & y[i])
    }

    fn spread_lsb(self, x: Self::Lanes) -> Self::Lanes {
        x.map(|x| mask(x as u8))
    }

    fn low_halves(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| x[i] & LOW | y[i] << 64)
    }

    fn high_halves(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| x[i] >> 64 | y[i] & !LOW)
    }

    fn swap_halves(self, x: Self::Lanes) -> Self::Lanes {
        x.map(|x| x.rotate_left(64))
    }

    fn spread_half_lsb(self, x: Self::Lanes) -> Self::Lanes {
        x.map(|x| mask(x as u8) & LOW | mask((x >> 64) as u8) & !LOW)
    }

    fn shift_left(self, x: Self::Lanes, n: u32) -> Self::Lanes {
        x.map(|x| (x & LOW) << n & LOW | (x & !LOW) << n)
    }

    fn shift_right(self, x: Self::Lanes, n: u32) -> Self::Lanes {
        x.map(|x| (x & LOW) >> n | (x & !LOW) >> n & !LOW)
    }

    fn store_pairs(self, first: Self::Lanes, second: Self::Lanes, bytes: &mut [u8], stride: usize) {
        for lane in 0..LANES {
            let pair = &mut bytes[lane * stride..][..32];
            pair[..16].copy_from_slice(&first[lane].to_le_bytes());
            pair[16..].copy_from_slice(&second[lane].to_le_bytes());
        }
    }

    fn load_pairs(self, bytes: &[u8], stride: usize) -> (Self::Lanes, Self::Lanes) {
        let half = |at: usize| {
            std::array::from_fn(|lane| {
                let mut half = [0; 16];
                half.copy_from_slice(&bytes[lane * stride + at..][..16]);
                u128::from_le_bytes(half)
            })
        };
        (half(0), half(16))
    }

    fn expand(self, keys: &[u128; KEYS]) -> Self::Keys {
        keys.map(|key| Aes128Enc::new(&key.to_le_bytes().into()))
    }

    /// Nothing: these wipe themselves when dropped.
    fn wipe(self, _keys: &mut Self::Keys) {}

    fn permute<const N: usize, const G: usize>(
        self,
        keys: &Self::Keys,
        first: usize,
        x: &mut [[Self::Lanes; N]; G],
    ) {
        for (key, group) in keys[first..].iter().zip(x) {
            for lanes in group {
                let mut blocks = lanes.map(|x| aes::Block::from(x.to_le_bytes()));
                key.encrypt_blocks(&mut blocks);
                *lanes = blocks.map(|block| u128::from_le_bytes(block.into()));
            }
        }
    }
}
