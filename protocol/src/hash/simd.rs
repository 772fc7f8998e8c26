//! Eight blocks at a time, by what the processor has: VAES with AVX-512, AES-NI, or portable code.
//!
//! A [`Kernel`] is written once, over the operations of [`Simd`], and [`super::path::Path::run`] compiles it for each processor: inside,
//! everything is inlined and blocks stay in registers. Values of the implementing types are proof that the processor has the
//! instructions. Operations take no branches and no look-ups on data; the portable cipher is that of the `aes` crate. All paths
//! give the same bytes; tests compare them.

use crate::block::Block;

/// Instances that are garbled in lockstep and share a key.
pub const LANES: usize = 8;
/// Keys that are expanded together: those of four groups.
pub(crate) const KEYS: usize = 4;
/// Rounds of AES-128.
#[cfg(target_arch = "x86_64")]
pub(super) const ROUNDS: usize = 10;
/// Round constants of its key schedule (FIPS-197, section 5.2).
#[cfg(target_arch = "x86_64")]
pub(super) const ROUND_CONSTANTS: [i32; ROUNDS] =
    [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36];

/// One block of each instance of a group.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Row(pub [Block; LANES]);

impl zeroize::DefaultIsZeroes for Row {}

/// The lanes' numbers: the low bits of every tweak.
pub(crate) const LANE_NUMBERS: Row = {
    let mut row = Row([Block::ZERO; LANES]);
    let mut lane = 0;
    while lane < LANES {
        row.0[lane] = Block(lane as u128);
        lane += 1;
    }
    row
};

/// Operations on eight blocks.
pub(crate) trait Simd: Copy {
    /// Eight blocks.
    type Lanes: Copy;
    /// Round keys of [`KEYS`] keys.
    type Keys;

    fn load(self, row: &Row) -> Self::Lanes;
    fn store(self, x: Self::Lanes, row: &mut Row);
    fn splat(self, x: u128) -> Self::Lanes;
    fn xor(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes;
    fn and(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes;
    /// All ones in the lanes whose least significant bit is 1, zero in the others.
    fn spread_lsb(self, x: Self::Lanes) -> Self::Lanes;

    /// Of each lane the low 64 bits of `x`, then, as high ones, those of `y`.
    fn low_halves(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes;
    /// Of each lane the high 64 bits of `x`, as low ones, then those of `y`.
    fn high_halves(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes;
    /// High and low 64 bits of each lane exchanged.
    fn swap_halves(self, x: Self::Lanes) -> Self::Lanes;
    /// All ones in the halves whose least significant bit is 1, zero in the others.
    fn spread_half_lsb(self, x: Self::Lanes) -> Self::Lanes;
    /// Each half shifted left by `n < 64` bits.
    fn shift_left(self, x: Self::Lanes, n: u32) -> Self::Lanes;
    /// Each half shifted right by `n < 64` bits.
    fn shift_right(self, x: Self::Lanes, n: u32) -> Self::Lanes;

    /// Lane `i` of both goes to `bytes[i * stride..][..32]`: first, then second.
    fn store_pairs(self, first: Self::Lanes, second: Self::Lanes, bytes: &mut [u8], stride: usize);
    /// The reverse of [`Self::store_pairs`].
    fn load_pairs(self, bytes: &[u8], stride: usize) -> (Self::Lanes, Self::Lanes);

    /// A hint that the cache line of `at` is needed soon. Reads nothing, so any address will do.
    fn prefetch(self, _at: *const u8) {}

    /// The key schedules of AES-128.
    fn expand(self, keys: &[u128; KEYS]) -> Self::Keys;
    /// Wipes a schedule of secret keys; those of the hash are public.
    fn wipe(self, keys: &mut Self::Keys);
    /// AES-128 of every block, in place: `x[g]` under key `first + g`.
    fn permute<const N: usize, const G: usize>(
        self,
        keys: &Self::Keys,
        first: usize,
        x: &mut [[Self::Lanes; N]; G],
    );

    /// TMMO, in place: `x[g][n] = H(x[g][n], tweaks[n])` under key `first + g`.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "one index for blocks and tweaks"
    )]
    fn tmmo<const N: usize, const G: usize>(
        self,
        keys: &Self::Keys,
        first: usize,
        x: &mut [[Self::Lanes; N]; G],
        tweaks: &[Self::Lanes; N],
    ) {
        self.permute(keys, first, x);
        let once = *x;
        for group in x.iter_mut() {
            for n in 0..N {
                group[n] = self.xor(group[n], tweaks[n]);
            }
        }
        self.permute(keys, first, x);
        for g in 0..G {
            for n in 0..N {
                x[g][n] = self.xor(x[g][n], once[g][n]);
            }
        }
    }
}

/// A computation over [`Simd`]. `run` and all that it calls is to be inlined.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, simd: S);
}
