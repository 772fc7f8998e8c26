//! Whether all of a JPEG picture came from its file.
//!
//! Decoders make something of whatever they are given: pixels whose data is missing become grey, or repeat. So the coded data is
//! walked here once, without making a pixel: each Huffman code is read as ITU-T T.81 (sections F and G: sequential and
//! progressive) defines, and what matters is where the data ends. If a block's code reaches past the end of its scan, pixels are missing.
//! If whole bytes are left over, something in between is damaged, or a camera wrote padding: that is no error and is told.
//!
//! What the walk does not know (arithmetic coding, lossless) it leaves to the decoder, which refuses it.

mod bits;
mod scan;

use bits::{Bits, Table};
use scan::{Component, Progress, Scan};

/// Why a picture is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file has no end.
    #[error("it ends too early")]
    NoEnd,
    /// The pixels' data has.
    #[error("its data ends too early: pixels are missing")]
    Short,
    /// A code that its tables do not have.
    #[error("its data is damaged: it holds a code that stands for nothing")]
    Code,
    /// No scan holds one of its colours.
    #[error("a colour's data is missing")]
    Colour,
    /// A header that is cut off or contradicts itself.
    #[error("a header is damaged")]
    Header,
}

/// Largest number of blocks of one colour: 100 million pixels, padded.
const MAX_BLOCKS: usize = 1 << 21;
/// Most scans of a picture. A short one can say that millions of blocks get nothing new, and the decoder takes no more either.
const MAX_SCANS: usize = 100;

/// The number of bytes between scans and markers that belong to no pixel.
///
/// # Errors
/// [`Fault`] when pixels are missing.
pub fn check(file: &[u8]) -> Result<usize, Fault> {
    let mut walk = Walk {
        file,
        at: 0,
        tables: Default::default(),
        interval: 0,
        components: vec![],
        progressive: false,
        mcus: (0, 0),
        n_left: 0,
        n_scans: 0,
    };
    match walk.run() {
        Ok(()) => Ok(walk.n_left),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Unknown) => Ok(0),
    }
}

/// Why the walk ends before the end.
enum Stop {
    Fault(Fault),
    /// A kind of coding that is not walked.
    Unknown,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    /// By class (DC, AC) and number.
    tables: [[Option<Table>; 4]; 2],
    /// MCUs between two restart markers; 0: there are none.
    interval: usize,
    components: Vec<Component>,
    progressive: bool,
    /// Across and down.
    mcus: (usize, usize),
    n_left: usize,
    n_scans: usize,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), Stop> {
        loop {
            match self.marker()? {
                // SOI, TEM, and restarts, which stand alone.
                0xD8 | 0x01 | 0xD0..=0xD7 => {}
                0xD9 => {
                    let all = !self.components.is_empty();
                    return if all && self.components.iter().all(|c| c.is_there) {
                        Ok(())
                    } else {
                        Err(Fault::Colour.into())
                    };
                }
                0xC4 => self.huffman_tables()?,
                0xDD => {
                    let segment = self.segment()?;
                    let &[high, low] = segment else {
                        return Err(Fault::Header.into());
                    };
                    self.interval = usize::from(u16::from_be_bytes([high, low]));
                }
                kind @ 0xC0..=0xC2 => self.frame(kind)?,
                0xC3 | 0xC5..=0xCF => return Err(Stop::Unknown),
                0xDA => self.scan()?,
                _ => {
                    self.segment()?;
                }
            }
        }
    }

    /// The next marker; bytes before it belong to nothing.
    fn marker(&mut self) -> Result<u8, Fault> {
        loop {
            let rest = self.file.get(self.at..).unwrap_or_default();
            let skip = rest.iter().position(|&b| b == 0xFF).ok_or(Fault::NoEnd)?;
            self.n_left += skip;
            let kind = rest[skip..].iter().position(|&b| b != 0xFF);
            let kind = skip + kind.ok_or(Fault::NoEnd)?;
            self.at += kind + 1;
            match rest[kind] {
                0 => self.n_left += 2,
                kind => return Ok(kind),
            }
        }
    }

    /// What a segment holds, without its length.
    fn segment(&mut self) -> Result<&'a [u8], Fault> {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let &[high, low, ..] = rest else {
            return Err(Fault::NoEnd);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(Fault::Header);
        }
        self.at += length;
        rest.get(2..length).ok_or(Fault::NoEnd)
    }

    fn huffman_tables(&mut self) -> Result<(), Fault> {
        let mut rest = self.segment()?;
        let mut found = vec![];
        while let Some((&head, tail)) = rest.split_first() {
            let (counts, tail) = tail.split_first_chunk::<16>().ok_or(Fault::Header)?;
            let n = counts.iter().map(|&n| usize::from(n)).sum();
            let values = tail.get(..n).ok_or(Fault::Header)?;
            found.push((head, Table::new(counts, values)));
            rest = &tail[n..];
        }
        for (head, table) in found {
            let place = self.tables.get_mut(usize::from(head >> 4));
            let place = place.and_then(|class| class.get_mut(usize::from(head & 15)));
            *place.ok_or(Fault::Header)? = Some(table);
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8) -> Result<(), Stop> {
        let segment = self.segment()?;
        let (&[_, h1, h0, w1, w0, n], rest) =
            segment.split_first_chunk::<6>().ok_or(Fault::Header)?;
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let (fields, _) = rest.as_chunks::<3>();
        let fields: Vec<[u8; 3]> = fields.iter().take(usize::from(n)).copied().collect();
        if fields.len() != usize::from(n) || fields.is_empty() {
            return Err(Fault::Header.into());
        }
        let sampling = |f: &[u8; 3]| (usize::from(f[1] >> 4), usize::from(f[1] & 15));
        let most = |part: fn((usize, usize)) -> usize| {
            fields.iter().map(|f| part(sampling(f))).max().unwrap_or(0)
        };
        let (h_most, v_most) = (most(|s| s.0), most(|s| s.1));
        if fields.iter().any(|f| {
            let (h, v) = sampling(f);
            !(1..=4).contains(&h) || !(1..=4).contains(&v)
        }) {
            return Err(Fault::Header.into());
        }
        // A height that comes after the first scan, or two frames, is for the decoder to refuse.
        if height == 0 || width == 0 || !self.components.is_empty() {
            return Err(Stop::Unknown);
        }
        self.progressive = kind == 0xC2;
        self.mcus = (width.div_ceil(8 * h_most), height.div_ceil(8 * v_most));
        for field in &fields {
            let (h, v) = sampling(field);
            let stride = self.mcus.0 * h;
            let n_blocks = stride * self.mcus.1 * v;
            if n_blocks > MAX_BLOCKS || fields.len() > 4 {
                return Err(Stop::Unknown);
            }
            self.components.push(Component {
                id: field[0],
                sampling: (h, v),
                stride,
                // What a scan of this colour alone holds: only blocks with a pixel of the picture.
                alone: (
                    (width * h).div_ceil(8 * h_most),
                    (height * v).div_ceil(8 * v_most),
                ),
                nonzero: vec![0; if self.progressive { n_blocks } else { 0 }],
                is_there: false,
            });
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<(), Stop> {
        let (file, mcus, interval) = (self.file, self.mcus, self.interval);
        let segment = self.segment()?;
        let (&n, rest) = segment.split_first().ok_or(Fault::Header)?;
        let n = usize::from(n);
        let (chosen, rest) = rest.split_at_checked(2 * n).ok_or(Fault::Header)?;
        let &[from, to, approximation] = rest else {
            return Err(Fault::Header.into());
        };
        let mut members = vec![];
        for pair in chosen.as_chunks::<2>().0 {
            let at = self.components.iter().position(|c| c.id == pair[0]);
            members.push((
                at.ok_or(Fault::Header)?,
                usize::from(pair[1] >> 4),
                usize::from(pair[1] & 15),
            ));
        }
        let progress = Progress::new(self.progressive, from, to, approximation);
        let progress = progress
            .filter(|_| (1..=4).contains(&n))
            .ok_or(Fault::Header)?;
        let scan = Scan {
            tables: &self.tables,
            progress,
            members: &members,
            mcus,
            interval,
        };
        self.n_scans += 1;
        // Pictures of films leave their tables out; the decoder knows which they mean.
        if self.n_scans > MAX_SCANS || !scan.has_tables() {
            return Err(Stop::Unknown);
        }
        let mut bits = Bits::new(file, self.at);
        self.n_left += scan.walk(&mut self.components, &mut bits)?;
        self.at = bits.marker_at();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
