//! What the compiler knows of an operation's result before it is a tensor: a sum that has not been computed yet.

use super::{Bias, Conv, Shape, Span, Term, View};

/// Terms and runs of channels above which a sum becomes a tensor.
const MOST_TERMS: usize = 16;
const MOST_RUNS: usize = 1 << 12;

/// A sum of convolutions, earlier tensors and constants.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub convs: Vec<Conv>,
    pub terms: Vec<Term>,
    pub biases: Vec<Bias>,
    pub constant: i64,
    pub shape: Shape,
    pub fraction_bits: u32,
}

impl Value {
    /// A tensor, or what a view makes of some.
    pub fn of(view: View, shape: Shape, fraction_bits: u32) -> Self {
        Self {
            convs: vec![],
            terms: vec![Term {
                view,
                factors: vec![1],
            }],
            biases: vec![],
            constant: 0,
            shape,
            fraction_bits,
        }
    }

    /// Whether it is made of earlier tensors alone: then it can be read any number of times, for nothing.
    pub fn is_local(&self) -> bool {
        self.convs.is_empty() && self.biases.is_empty() && self.constant == 0
    }

    /// Whether it has become so many parts that a tensor is better.
    pub fn is_scattered(&self) -> bool {
        let n_runs: usize = self.terms.iter().map(|t| t.view.runs.len()).sum();
        self.terms.len() > MOST_TERMS || n_runs > MOST_RUNS
    }

    /// The one view that it is, if it is one.
    pub fn view(&self) -> Option<&View> {
        match &self.terms[..] {
            [term] if self.is_local() && term.factors == [1] => Some(&term.view),
            _ => None,
        }
    }

    /// Whether rows and columns are those of its views: not after a flatten.
    pub fn is_map(&self) -> bool {
        self.terms.iter().all(|t| t.view.shape() == self.shape)
    }

    /// At a scale of more fraction bits.
    pub fn scaled(mut self, fraction_bits: u32) -> Self {
        let more = fraction_bits - self.fraction_bits;
        self.convs.iter_mut().for_each(|c| c.shift += more);
        self.biases.iter_mut().for_each(|b| b.shift += more);
        let factors = self.terms.iter_mut().flat_map(|t| &mut t.factors);
        factors.for_each(|f| *f <<= more);
        self.constant <<= more;
        self.fraction_bits = fraction_bits;
        self
    }

    /// Sum of two values of the same shape.
    pub fn plus(self, other: Self) -> Self {
        let bits = self.fraction_bits.max(other.fraction_bits);
        let (mut sum, mut other) = (self.scaled(bits), other.scaled(bits));
        sum.convs.append(&mut other.convs);
        for term in other.terms {
            let known = sum
                .terms
                .iter_mut()
                .find(|own| own.view == term.view && own.factors.len() == term.factors.len());
            match known {
                Some(own) => {
                    let pairs = own.factors.iter_mut().zip(&term.factors);
                    pairs.for_each(|(a, b)| *a += b);
                }
                None => sum.terms.push(term),
            }
        }
        sum.biases.append(&mut other.biases);
        sum.constant += other.constant;
        sum
    }

    /// Each term multiplied by `factors`: one for all values, or one for each. Of a local value.
    pub fn times(mut self, factors: &[i64]) -> Self {
        for term in &mut self.terms {
            term.factors = match (&term.factors[..], factors) {
                (own, [factor]) => own.iter().map(|f| f * factor).collect(),
                ([own], many) => many.iter().map(|f| f * own).collect(),
                (own, many) => own.iter().zip(many).map(|(a, b)| a * b).collect(),
            };
        }
        self
    }

    /// The channels of a list, of a local value that is a map.
    pub fn pick(mut self, channels: &[usize]) -> Self {
        let plane = self.shape.height * self.shape.width;
        for term in &mut self.terms {
            term.view = term.view.pick(channels);
            if term.factors.len() > 1 {
                let picked = channels.iter().map(|c| &term.factors[c * plane..][..plane]);
                term.factors = picked.flatten().copied().collect();
            }
        }
        self.shape.channels = channels.len();
        self
    }

    /// Among `before` channels of zeros in front and `after` behind, of a local value that is a map.
    fn between(mut self, before: usize, after: usize) -> Self {
        let plane = self.shape.height * self.shape.width;
        for term in &mut self.terms {
            term.view = term.view.between(before, after);
            if term.factors.len() > 1 {
                let mut factors = vec![0; before * plane];
                factors.append(&mut term.factors);
                factors.resize(factors.len() + after * plane, 0);
                term.factors = factors;
            }
        }
        self.shape.channels += before + after;
        self
    }

    /// The channels of local values that are maps, one after another.
    pub fn concat(values: Vec<Self>) -> Option<Self> {
        let bits = values.iter().map(|v| v.fraction_bits).max()?;
        let values: Vec<Self> = values.into_iter().map(|v| v.scaled(bits)).collect();
        let first = &values.first()?.terms.first()?;
        let spans = |v: &View| (v.rows, v.columns, v.size);
        let alike = |v: &Self| match &v.terms[..] {
            [term] => {
                term.factors.len() == 1
                    && term.factors == first.factors
                    && spans(&term.view) == spans(&first.view)
            }
            _ => false,
        };
        let n: usize = values.iter().map(|v| v.shape.channels).sum();
        if values.iter().all(alike) {
            let view = View {
                runs: values
                    .iter()
                    .flat_map(|v| v.terms[0].view.runs.clone())
                    .collect(),
                ..first.view.clone()
            };
            let factors = first.factors.clone();
            let shape = view.shape();
            let mut joined = Self::of(view, shape, bits);
            joined.terms[0].factors = factors;
            return Some(joined);
        }
        let mut before = 0;
        let mut parts = values.into_iter().map(|value| {
            let own = value.shape.channels;
            let part = value.between(before, n - before - own);
            before += own;
            part
        });
        let first = parts.next()?;
        Some(parts.fold(first, Self::plus))
    }

    /// What spans make of a local value that is a map; none where they cannot be put into its views.
    pub fn spanned(&self, rows: Span, columns: Span) -> Option<Self> {
        let mut value = self.clone();
        for term in &mut value.terms {
            if term.factors.len() > 1 {
                return None;
            }
            let [height, width] = term.view.size;
            term.view.rows = rows.of(term.view.rows, height)?;
            term.view.columns = columns.of(term.view.columns, width)?;
        }
        (value.shape.height, value.shape.width) = (rows.count, columns.count);
        Some(value)
    }
}
