//! The coded data of one scan, bit by bit, and the codes of its tables.

use super::Fault;

/// Reads bits up to the next marker.
pub(super) struct Bits<'a> {
    file: &'a [u8],
    at: usize,
    /// The last bits that were read from the file, the lowest `n_bits` of them not yet used.
    word: u64,
    n_bits: u32,
}

impl<'a> Bits<'a> {
    pub(super) const fn new(file: &'a [u8], at: usize) -> Self {
        Self {
            file,
            at,
            word: 0,
            n_bits: 0,
        }
    }

    /// The next byte of data, if no marker stands here.
    fn byte(&mut self) -> Option<u8> {
        let &byte = self.file.get(self.at)?;
        if byte == 0xFF {
            // A byte 255 of the data is followed by 0.
            if *self.file.get(self.at + 1)? != 0 {
                return None;
            }
            self.at += 1;
        }
        self.at += 1;
        Some(byte)
    }

    fn fill(&mut self) {
        while self.n_bits <= 48 {
            let Some(byte) = self.byte() else {
                return;
            };
            self.word = self.word << 8 | u64::from(byte);
            self.n_bits += 8;
        }
    }

    /// Reads `n` of at most 16 bits.
    pub(super) fn take(&mut self, n: u32) -> Result<u32, Fault> {
        if self.n_bits < n {
            self.fill();
            if self.n_bits < n {
                return Err(Fault::Short);
            }
        }
        self.n_bits -= n;
        Ok((self.word >> self.n_bits) as u32 & ((1 << n) - 1))
    }

    /// Reads one code.
    pub(super) fn code(&mut self, table: &Table) -> Result<u8, Fault> {
        if self.n_bits < 16 {
            self.fill();
        }
        // What is missing reads as ones, which fill the last byte; a code that reaches into it is too long.
        let missing = 16u32.saturating_sub(self.n_bits);
        let known = (self.word << missing >> (self.n_bits + missing - 16)) as u32 & 0xFFFF;
        let next = known | ((1 << missing) - 1);
        let length = table.length(next).ok_or(if missing > 0 {
            Fault::Short
        } else {
            Fault::Code
        })?;
        if length > self.n_bits {
            return Err(Fault::Short);
        }
        self.n_bits -= length;
        Ok(table.value(next, length))
    }

    /// Ends an interval: the number of whole bytes that nobody read before the marker.
    pub(super) fn finish(&mut self) -> usize {
        let mut n = (self.n_bits / 8) as usize;
        (self.word, self.n_bits) = (0, 0);
        while self.byte().is_some() {
            n += 1;
        }
        n
    }

    /// Passes over a restart marker, if one stands here.
    pub(super) fn restart(&mut self) -> Result<(), Fault> {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let fill = rest.iter().take_while(|&&b| b == 0xFF).count();
        match rest.get(fill) {
            Some(0xD0..=0xD7) if fill > 0 => {
                self.at += fill + 1;
                Ok(())
            }
            Some(_) => Err(Fault::Short),
            None => Err(Fault::NoEnd),
        }
    }

    /// Where the marker after the data stands.
    pub(super) const fn marker_at(&self) -> usize {
        self.at
    }
}

/// A Huffman table in canonical form (T.81, section C).
pub(super) struct Table {
    /// For each length of 1 to 16: the first code that is longer, in 16 bits; what to add to a code for its place.
    limits: [(u32, i32); 16],
    values: Vec<u8>,
}

impl Table {
    pub(super) fn new(counts: &[u8; 16], values: &[u8]) -> Self {
        let (mut code, mut place) = (0u32, 0i32);
        let mut limits = [(0, 0); 16];
        for (i, &count) in counts.iter().enumerate() {
            let offset = place - code as i32;
            code += u32::from(count);
            place += i32::from(count);
            limits[i] = (code << (15 - i), offset);
            code <<= 1;
        }
        Self {
            limits,
            values: values.to_vec(),
        }
    }

    /// Bits of the code at the start of 16 bits.
    fn length(&self, next: u32) -> Option<u32> {
        let i = self.limits.iter().position(|&(limit, _)| next < limit)?;
        Some(i as u32 + 1)
    }

    /// What a code of this length stands for; a table that contradicts itself gives 0.
    fn value(&self, next: u32, length: u32) -> u8 {
        let (_, offset) = self.limits[length as usize - 1];
        let place = (next >> (16 - length)) as i32 + offset;
        let value = usize::try_from(place).ok().and_then(|p| self.values.get(p));
        value.copied().unwrap_or(0)
    }
}
