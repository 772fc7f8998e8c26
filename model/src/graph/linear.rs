//! Convolutions, and the sources that they read.

use super::compile::Compiler;
use super::value::Value;
use super::{Conv, Graph, Shape, Source, Span, View};
use crate::error::{ModelError, Result};
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
            let key = (view.clone(), stride);
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
}
