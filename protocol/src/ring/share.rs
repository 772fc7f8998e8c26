//! Additive shares: x = x_client + x_server mod 2^k.
//!
//! The two parties' shares are different types, so that nothing takes one for the other by mistake. Shares are wiped when they
//! go, and never printed.

use std::marker::PhantomData;

use zeroize::Zeroize as _;

/// Marks of the parties, for [`Share`] alone.
pub mod party {
    /// Owns a [`super::ClientShare`].
    #[derive(Clone, Copy, Debug)]
    pub enum Client {}

    /// Owns a [`super::ServerShare`].
    #[derive(Clone, Copy, Debug)]
    pub enum Server {}
}

/// What the client has of a shared tensor.
pub type ClientShare = Share<party::Client>;

/// What the server has of a shared tensor.
pub type ServerShare = Share<party::Server>;

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
}

impl<Party> AsRef<[u64]> for Share<Party> {
    fn as_ref(&self) -> &[u64] {
        &self.values
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Ring;

    fn reconstruct(ring: Ring, client: &ClientShare, server: &ServerShare) -> Vec<i64> {
        let pairs = client.values.iter().zip(&server.values);
        pairs.map(|(&c, &s)| ring.decode(ring.add(c, s))).collect()
    }

    #[test]
    fn shares_open_to_the_value_and_hide_in_debug() {
        let ring = Ring::new(52);
        let client = ClientShare::new(vec![5, ring.encode(-7)]);
        let server = ServerShare::new(vec![ring.encode(-8), 3]);
        assert_eq!(reconstruct(ring, &client, &server), [-3, -4]);
        assert_eq!(format!("{client:?}"), "Share(2 values)");
    }
}
