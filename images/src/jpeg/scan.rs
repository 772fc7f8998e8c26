//! One scan: which blocks it holds, in which order, and how many bits each takes.

use super::Fault;
use super::bits::{Bits, Table};

/// One colour of the picture.
pub(super) struct Component {
    pub(super) id: u8,
    /// Blocks of one MCU, across and down.
    pub(super) sampling: (usize, usize),
    /// Blocks from one row to the next.
    pub(super) stride: usize,
    /// Blocks of a scan of this colour alone, across and down.
    pub(super) alone: (usize, usize),
    /// For each block of a progressive picture, which coefficients are no longer zero: their refinement takes a bit each.
    pub(super) nonzero: Vec<u64>,
    /// Whether a scan began it.
    pub(super) is_there: bool,
}

/// What a scan says of each coefficient (T.81, section G).
#[derive(Clone, Copy)]
pub(super) enum Progress {
    /// Everything.
    Sequential,
    /// The first bits of the mean.
    FirstMean,
    /// One more bit of the mean.
    NextMean,
    /// The first bits of others, in zigzag order.
    First { from: u32, to: u32 },
    /// One more bit of others.
    Next { from: u32, to: u32 },
}

impl Progress {
    /// Read from a scan's header; none where it contradicts itself.
    pub(super) fn new(progressive: bool, from: u8, to: u8, approximation: u8) -> Option<Self> {
        let is_first = approximation >> 4 == 0;
        if !progressive {
            return Some(Self::Sequential);
        }
        let (from, to) = (u32::from(from), u32::from(to));
        match (from, is_first) {
            (0, _) if to != 0 => None,
            (0, true) => Some(Self::FirstMean),
            (0, false) => Some(Self::NextMean),
            _ if from > to || to > 63 => None,
            (_, true) => Some(Self::First { from, to }),
            (_, false) => Some(Self::Next { from, to }),
        }
    }
}

/// A scan's header.
pub(super) struct Scan<'a> {
    pub(super) tables: &'a [[Option<Table>; 4]; 2],
    pub(super) progress: Progress,
    /// Component, table of means, table of others.
    pub(super) members: &'a [(usize, usize, usize)],
    pub(super) mcus: (usize, usize),
    pub(super) interval: usize,
}

impl Scan<'_> {
    /// Reads all blocks; the result is the number of bytes that belong to none.
    pub(super) fn walk(
        &self,
        components: &mut [Component],
        bits: &mut Bits,
    ) -> Result<usize, Fault> {
        let &[(first, ..), ..] = self.members else {
            return Err(Fault::Header);
        };
        let is_alone = self.members.len() == 1;
        let (across, down) = if is_alone {
            components[first].alone
        } else {
            self.mcus
        };
        if matches!(self.progress, Progress::Sequential | Progress::FirstMean) {
            for &(member, ..) in self.members {
                components[member].is_there = true;
            }
        }
        let (mut n_left, mut run) = (0, 0);
        for mcu in 0..across * down {
            if self.interval > 0 && mcu > 0 && mcu % self.interval == 0 {
                n_left += bits.finish();
                bits.restart()?;
                run = 0;
            }
            let (x, y) = (mcu % across, mcu / across);
            for &(member, mean, others) in self.members {
                let component = &mut components[member];
                let (h, v) = if is_alone { (1, 1) } else { component.sampling };
                for i in 0..h * v {
                    let at = (y * v + i / h) * component.stride + x * h + i % h;
                    let mut none = 0;
                    let nonzero = component.nonzero.get_mut(at).unwrap_or(&mut none);
                    self.block((mean, others), nonzero, &mut run, bits)?;
                }
            }
        }
        Ok(n_left + bits.finish())
    }

    /// Whether the file holds all tables that its codes are of.
    pub(super) fn has_tables(&self) -> bool {
        let (means, others) = match self.progress {
            Progress::Sequential => (true, true),
            Progress::FirstMean => (true, false),
            Progress::NextMean => (false, false),
            Progress::First { .. } | Progress::Next { .. } => (false, true),
        };
        self.members.iter().all(|&(_, mean, other)| {
            (!means || self.table(0, mean).is_ok()) && (!others || self.table(1, other).is_ok())
        })
    }

    fn table(&self, class: usize, number: usize) -> Result<&Table, Fault> {
        let table = self.tables[class].get(number).and_then(Option::as_ref);
        table.ok_or(Fault::Header)
    }

    /// Reads one block. `run` is the number of blocks to come that hold no new coefficient.
    fn block(
        &self,
        (mean, others): (usize, usize),
        nonzero: &mut u64,
        run: &mut u32,
        bits: &mut Bits,
    ) -> Result<(), Fault> {
        match self.progress {
            Progress::Sequential => {
                let size = bits.code(self.table(0, mean)?)?;
                skip(bits, size)?;
                first(self.table(1, others)?, (1, 63), nonzero, None, bits)
            }
            Progress::FirstMean => {
                let size = bits.code(self.table(0, mean)?)?;
                skip(bits, size)
            }
            Progress::NextMean => bits.take(1).map(|_| ()),
            Progress::First { from, to } => {
                if *run > 0 {
                    *run -= 1;
                    return Ok(());
                }
                first(self.table(1, others)?, (from, to), nonzero, Some(run), bits)
            }
            Progress::Next { from, to } => {
                next(self.table(1, others)?, (from, to), nonzero, run, bits)
            }
        }
    }
}

/// Passes over the bits of a value; its size is at most 16.
fn skip(bits: &mut Bits, size: u8) -> Result<(), Fault> {
    match u32::from(size) {
        size @ 0..=16 => bits.take(size).map(|_| ()),
        _ => Err(Fault::Code),
    }
}

/// The coefficients `from` to `to` of a block, each a run of zeros and a value (F.2.2.2, G.1.2.2).
fn first(
    table: &Table,
    (from, to): (u32, u32),
    nonzero: &mut u64,
    run: Option<&mut u32>,
    bits: &mut Bits,
) -> Result<(), Fault> {
    let mut k = from;
    while k <= to {
        let code = bits.code(table)?;
        let (zeros, size) = (u32::from(code >> 4), code & 15);
        match (size, zeros, run.is_some()) {
            (0, 15, _) => k += 16,
            (0, _, false) => return Ok(()),
            (0, ..) => {
                let more = bits.take(zeros)?;
                if let Some(run) = run {
                    *run = (1 << zeros) - 1 + more;
                }
                return Ok(());
            }
            _ => {
                k += zeros;
                skip(bits, size)?;
                if k > to {
                    return Err(Fault::Code);
                }
                *nonzero |= 1 << k;
                k += 1;
            }
        }
    }
    Ok(())
}

/// One more bit of those that are not zero, and new ones (G.1.2.3).
fn next(
    table: &Table,
    (from, to): (u32, u32),
    nonzero: &mut u64,
    run: &mut u32,
    bits: &mut Bits,
) -> Result<(), Fault> {
    let mut k = from;
    while *run == 0 && k <= to {
        let code = bits.code(table)?;
        let (mut zeros, size) = (u32::from(code >> 4), code & 15);
        match (size, zeros) {
            (0, 15) => {}
            (0, _) => {
                *run = (1 << zeros) + bits.take(zeros)?;
                break;
            }
            (1, _) => {
                bits.take(1)?;
            }
            _ => return Err(Fault::Code),
        }
        while k <= to {
            if *nonzero >> k & 1 == 1 {
                bits.take(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        if size == 1 && k <= to {
            *nonzero |= 1 << k;
        }
        k += 1;
    }
    if *run > 0 {
        let rest = (*nonzero >> k.min(63)) & (u64::MAX >> (63 - to.saturating_sub(k.min(63))));
        for _ in 0..if k <= to { rest.count_ones() } else { 0 } {
            bits.take(1)?;
        }
        *run -= 1;
    }
    Ok(())
}
