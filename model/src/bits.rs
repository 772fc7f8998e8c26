//! Values of a fixed number of bits, packed without gaps: value `i` takes bits `i * bits ..` of the message, lowest bit
//! first, and each message is rounded up to whole bytes. Shares travel this way (k bits each), as do the noise bits,
//! corrections and responses of the homomorphic layers (14 to 72 bits each).
//!
//! Decoding takes the number of values from its caller, never from the message. The unused bits of the last byte must be
//! zero, so each sequence has exactly one encoding.

/// Why a packed message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitsError {
    /// The message does not have the length that its contents need.
    #[error("{expected} bytes were due, {got} came")]
    Length {
        /// Bytes due.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A bit beyond the last value is set.
    #[error("the unused bits of the last byte must be zero")]
    Padding,
}

/// Bytes that `n` values of `bits` bits take.
pub const fn packed_bytes(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(8)
}

const fn low_mask(bits: u32) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

struct Writer {
    out: Vec<u8>,
    pending: u128,
    n_pending: u32,
}

impl Writer {
    fn new(bytes: usize) -> Self {
        Self {
            out: Vec::with_capacity(bytes + 8),
            pending: 0,
            n_pending: 0,
        }
    }

    #[inline]
    fn push(&mut self, value: u64, bits: u32) {
        self.pending |= u128::from(value & low_mask(bits)) << self.n_pending;
        self.n_pending += bits;
        if self.n_pending >= 64 {
            self.out
                .extend_from_slice(&(self.pending as u64).to_le_bytes());
            self.pending >>= 64;
            self.n_pending -= 64;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let n_bytes = self.n_pending.div_ceil(8) as usize;
        self.out
            .extend_from_slice(&(self.pending as u64).to_le_bytes()[..n_bytes]);
        self.out
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    pending: u128,
    n_pending: u32,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], n: usize, bits: u32) -> Result<Self, BitsError> {
        let expected = packed_bytes(n, bits);
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(BitsError::Length { expected, got });
        }
        Ok(Self {
            rest: bytes,
            pending: 0,
            n_pending: 0,
        })
    }

    #[inline]
    fn pull(&mut self, bits: u32) -> u64 {
        if self.n_pending < bits {
            let (word, rest) = match self.rest.split_first_chunk::<8>() {
                Some((word, rest)) => (*word, rest),
                None => {
                    let mut word = [0; 8];
                    word[..self.rest.len()].copy_from_slice(self.rest);
                    (word, &self.rest[self.rest.len()..])
                }
            };
            self.rest = rest;
            self.pending |= u128::from(u64::from_le_bytes(word)) << self.n_pending;
            self.n_pending += 64;
        }
        let value = self.pending as u64 & low_mask(bits);
        self.pending >>= bits;
        self.n_pending -= bits;
        value
    }

    fn finish(self) -> Result<(), BitsError> {
        if self.pending == 0 && self.rest.is_empty() {
            Ok(())
        } else {
            Err(BitsError::Padding)
        }
    }
}

/// Packs the low `bits` bits (1 to 64) of each value.
pub fn pack(values: &[u64], bits: u32) -> Vec<u8> {
    let mut writer = Writer::new(packed_bytes(values.len(), bits));
    for &value in values {
        writer.push(value, bits);
    }
    writer.finish()
}

/// Reads `n` values of `bits` bits (1 to 64) each.
///
/// # Errors
/// If the message has another length or bits beyond its last value.
pub fn unpack(bytes: &[u8], n: usize, bits: u32) -> Result<Vec<u64>, BitsError> {
    let mut reader = Reader::new(bytes, n, bits)?;
    let values = (0..n).map(|_| reader.pull(bits)).collect();
    reader.finish()?;
    Ok(values)
}

/// Packs the low `bits` bits (65 to 128) of each value.
pub fn pack_wide(values: &[u128], bits: u32) -> Vec<u8> {
    let mut writer = Writer::new(packed_bytes(values.len(), bits));
    for &value in values {
        writer.push(value as u64, 64);
        writer.push((value >> 64) as u64, bits - 64);
    }
    writer.finish()
}

/// Reads `n` values of `bits` bits (65 to 128) each.
///
/// # Errors
/// If the message has another length or bits beyond its last value.
pub fn unpack_wide(bytes: &[u8], n: usize, bits: u32) -> Result<Vec<u128>, BitsError> {
    let mut reader = Reader::new(bytes, n, bits)?;
    let values = (0..n)
        .map(|_| {
            let low = u128::from(reader.pull(64));
            low | u128::from(reader.pull(bits - 64)) << 64
        })
        .collect();
    reader.finish()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn every_width_survives_a_round_trip() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for bits in 1..=64 {
            for n in [0, 1, 2, 7, 63, 64, 65, 200] {
                let values: Vec<u64> = (0..n)
                    .map(|_| rng.random::<u64>() & low_mask(bits))
                    .collect();
                let bytes = pack(&values, bits);
                assert_eq!(bytes.len(), packed_bytes(n, bits));
                assert_eq!(unpack(&bytes, n, bits).unwrap(), values, "{bits} bits");
            }
        }
        for bits in 65..=128 {
            let values: Vec<u128> = (0..37)
                .map(|_| rng.random::<u128>() >> (128 - bits))
                .collect();
            let bytes = pack_wide(&values, bits);
            assert_eq!(bytes.len(), packed_bytes(37, bits));
            assert_eq!(
                unpack_wide(&bytes, 37, bits).unwrap(),
                values,
                "{bits} bits"
            );
        }
    }

    #[test]
    fn bits_lie_lowest_first() {
        assert_eq!(pack(&[1, 2, 3], 3), [0b11_010_001, 0]);
        assert_eq!(pack(&[0x1ff], 9), [0xff, 1]);
    }

    #[test]
    fn wrong_lengths_and_set_padding_are_refused() {
        let mut bytes = pack(&[5; 3], 13);
        let length = |got| Err(BitsError::Length { expected: 5, got });
        assert_eq!(unpack(&bytes[..4], 3, 13), length(4));
        assert_eq!(unpack(&[0; 6], 3, 13), length(6));
        bytes[4] |= 0x80;
        assert_eq!(unpack(&bytes, 3, 13), Err(BitsError::Padding));
        assert_eq!(unpack_wide(&[0xff; 10], 1, 73), Err(BitsError::Padding));
    }
}
