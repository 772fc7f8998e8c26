//! Additive shares: x = x_client + x_server mod 2^k.
//!
//! The two parties' shares are different types, so that a driver cannot open its own share by mistake: only
//! [`reconstruct`] joins them, and it takes one of each. Shares are wiped when they go, and never printed.

use std::marker::PhantomData;

use zeroize::Zeroize as _;

use crate::ring::Ring;

/// Marks what belongs to the client.
#[derive(Clone, Copy, Debug)]
pub enum Client {}

/// Marks what belongs to the server.
#[derive(Clone, Copy, Debug)]
pub enum Server {}

/// One party's share of a tensor, in 0..2^k for each value.
pub struct Share<Party> {
    values: Vec<u64>,
    party: PhantomData<fn() -> Party>,
}

impl<Party> Share<Party> {
    /// Takes over ring elements that are this party's share.
    #[must_use]
    pub const fn new(values: Vec<u64>) -> Self {
        Self {
            values,
            party: PhantomData,
        }
    }

    /// The ring elements.
    #[must_use]
    pub fn values(&self) -> &[u64] {
        &self.values
    }

    /// The ring elements, to change in place.
    pub fn values_mut(&mut self) -> &mut [u64] {
        &mut self.values
    }
}

impl<Party> Drop for Share<Party> {
    fn drop(&mut self) {
        self.values.zeroize();
    }
}

impl<Party> std::fmt::Debug for Share<Party> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Share({} values)", self.values.len())
    }
}

/// The shared tensor, signed.
#[must_use]
pub fn reconstruct(ring: Ring, client: &Share<Client>, server: &Share<Server>) -> Vec<i64> {
    let pairs = client.values.iter().zip(&server.values);
    pairs.map(|(&c, &s)| ring.decode(ring.add(c, s))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_open_to_the_value_and_hide_in_debug() {
        let ring = Ring::new(52);
        let client = Share::<Client>::new(vec![5, ring.encode(-7)]);
        let server = Share::<Server>::new(vec![ring.encode(-8), 3]);
        assert_eq!(reconstruct(ring, &client, &server), [-3, -4]);
        assert_eq!(format!("{client:?}"), "Share(2 values)");
    }
}
