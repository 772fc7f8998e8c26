//! Convolutions, and the sources that they read.

use std::collections::{HashMap, HashSet};

use super::compile::Compiler;
use super::value::Value;
use super::{Conv, Graph, Run, Shape, Source, Span, View};
use crate::error::{ModelError, Result};
use crate::packing::MAX_STRIDE;
use crate::spec::Window;

impl<'a> Compiler<'a> {
    pub(super) fn conv(
        &mut self,
        name: &str,
        input: &'a str,
        window: &Window,
        groups: usize,
    ) -> Result<Value> {
        let bits = self.numbers.weight_fraction_bits.get(name).copied();
        let bits = bits.ok_or_else(|| {
            ModelError::op(name, "fixed_point has no weight_fraction_bits for it")
        })?;
        if bits > 20 {
            return Err(ModelError::op(
                name,
                format!("{bits} fraction bits of the weights; at most 20 are supported"),
            ));
        }
        if window.stride.iter().any(|s| *s > MAX_STRIDE) {
            return Err(ModelError::op(
                name,
                format!(
                    "stride {:?}; at most {MAX_STRIDE} is supported for convolutions",
                    window.stride
                ),
            ));
        }
        let mut value = self.local(name, input)?;
        let covers = |v: &Value, graph: &Graph| v.view().is_some_and(|v| v.covers(&graph.tensors));
        if !covers(&value, &self.graph) {
            value = self.local_tensor(input, value)?;
        }
        let Some(view) = value.view().cloned() else {
            return Err(ModelError::op(name, "what it reads is not one tensor"));
        };
        let (shape, fraction_bits) = (value.shape, value.fraction_bits + bits);
        let source = self.source(input, view, shape, window.stride)?;
        let result = self.shapes[name];
        let conv = Conv {
            op: name.to_owned(),
            source,
            out_channels: result.channels,
            window: *window,
            groups,
            out_size: [result.height, result.width],
            fraction_bits,
            shift: 0,
        };
        Ok(Value {
            convs: vec![conv],
            terms: vec![],
            biases: vec![],
            constant: 0,
            shape: result,
            fraction_bits,
        })
    }

    /// The source of `view` for convolutions of `stride`, of a copy where a tensor of it is in another source.
    fn source(
        &mut self,
        input: &str,
        view: View,
        shape: Shape,
        stride: [usize; 2],
    ) -> Result<usize> {
        let same =
            |s: &Source, view: &View| s.view == *view && s.stride == stride && s.shape == shape;
        let mut sources = self.graph.sources.iter();
        if let Some(known) = sources.position(|s| same(s, &view)) {
            return Ok(known);
        }
        let taken = view.tensors().any(|t| self.graph.source_of(t).is_some());
        let mut view = view;
        if taken {
            let key = (view.clone(), stride, shape);
            let copy = match self.copies.get(&key) {
                Some(copy) => copy.clone(),
                None => {
                    let n = self.copies.len() + 1;
                    let copy = View {
                        rows: view.rows,
                        columns: view.columns,
                        ..self.copy(format!("{input}.copy{n}"), &view)?
                    };
                    self.copies.insert(key, copy.clone());
                    copy
                }
            };
            view = copy;
            let mut sources = self.graph.sources.iter();
            if let Some(known) = sources.position(|s| same(s, &view)) {
                return Ok(known);
            }
        }
        self.graph.sources.push(Source {
            view,
            shape,
            stride,
        });
        Ok(self.graph.sources.len() - 1)
    }

    /// A tensor that holds the channels of `view`, whole: no window is summed.
    pub(super) fn copy(&mut self, name: String, view: &View) -> Result<View> {
        let [height, width] = view.size;
        let whole = View {
            rows: Span::whole(height),
            columns: Span::whole(width),
            ..view.clone()
        };
        let shape = whole.shape();
        let f_a = self.numbers.activation_fraction_bits;
        let copied = self.tensor(name.clone(), Value::of(whole, shape, f_a))?;
        let view = copied.view().cloned();
        view.ok_or_else(|| ModelError::op(&name, "a copy is a tensor"))
    }

    /// What the last layer reads lives in a ring of its own, so nothing else may read it: copies where something does. A copy
    /// reads all tensors of its view, so that others become shared by it, until none is.
    pub(super) fn part_from_the_output(&mut self, last: &str, value: &mut Value) -> Result<()> {
        let mut copied: HashMap<Vec<Run>, View> = HashMap::new();
        loop {
            let layers = self.graph.layers.iter();
            let shared: HashSet<usize> = layers.flat_map(|l| l.reads(&self.graph)).collect();
            let is_shared = |view: &View| view.tensors().any(|t| shared.contains(&t));
            let mut sources = value.convs.iter().map(|c| c.source);
            let source = sources.find(|&s| is_shared(&self.graph.sources[s].view));
            let mut terms = value.terms.iter().map(|t| &t.view);
            let Some(view) = source
                .map(|s| self.graph.sources[s].view.clone())
                .or_else(|| terms.find(|view| is_shared(view)).cloned())
            else {
                return Ok(());
            };
            let copy = match copied.get(&view.runs) {
                Some(copy) => copy.clone(),
                None => self.copy(format!("{last}.copy{}", copied.len() + 1), &view)?,
            };
            copied.insert(view.runs.clone(), copy.clone());
            let spanned = |view: &View| View {
                rows: view.rows,
                columns: view.columns,
                ..copy.clone()
            };
            if let Some(old) = source {
                let new = self.source_instead(old, spanned(&view));
                let readers = value.convs.iter_mut().filter(|c| c.source == old);
                readers.for_each(|c| c.source = new);
            }
            let terms = value.terms.iter_mut().map(|t| &mut t.view);
            for own in terms.filter(|own| own.runs == view.runs) {
                *own = spanned(own);
            }
        }
    }

    /// A source like `old` for another view: the same one, unless earlier layers read it.
    fn source_instead(&mut self, old: usize, view: View) -> usize {
        let mut convs = self.graph.layers.iter().flat_map(|l| &l.convs);
        if convs.any(|c| c.source == old) {
            let source = self.graph.sources[old].clone();
            self.graph.sources.push(Source { view, ..source });
            return self.graph.sources.len() - 1;
        }
        self.graph.sources[old].view = view;
        old
    }
}
