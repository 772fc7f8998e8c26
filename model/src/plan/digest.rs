//! The compiled graph in the plan's hash: two programs that compile a model differently refuse each other.

use crate::graph::{Graph, Layer, Shape, Span, Term, View};

/// Feeds all of `graph` to `hasher`.
pub(super) fn graph(graph: &Graph, hasher: &mut blake3::Hasher) {
    let mut feed = Feed(hasher);
    graph.tensors.iter().for_each(|&shape| feed.shape(shape));
    for source in &graph.sources {
        feed.view(&source.view);
        feed.shape(source.shape);
        feed.numbers(&source.stride);
    }
    graph.layers.iter().for_each(|layer| feed.layer(layer));
}

/// Every list goes with its length, so that no two graphs are fed alike.
struct Feed<'a>(&'a mut blake3::Hasher);

impl Feed<'_> {
    fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_le_bytes());
    }

    fn numbers(&mut self, numbers: &[usize]) {
        self.number(numbers.len());
        numbers.iter().for_each(|&n| self.number(n));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text.as_bytes());
    }

    fn shape(&mut self, shape: Shape) {
        self.numbers(&[shape.channels, shape.height, shape.width]);
    }

    fn view(&mut self, view: &View) {
        self.number(view.runs.len());
        for run in &view.runs {
            let tensor = run.tensor.map_or(0, |tensor| tensor + 1);
            self.numbers(&[tensor, run.first, run.count]);
        }
        for Span {
            first,
            step,
            size,
            count,
        } in [view.rows, view.columns]
        {
            self.numbers(&[first as usize, step, size, count]);
        }
        self.numbers(&view.size);
    }

    fn term(&mut self, Term { view, factors }: &Term) {
        self.view(view);
        self.number(factors.len());
        for factor in factors {
            self.0.update(&factor.to_le_bytes());
        }
    }

    fn layer(&mut self, layer: &Layer) {
        self.text(&layer.name);
        self.number(layer.convs.len());
        for conv in &layer.convs {
            self.text(&conv.op);
            let window = &conv.window;
            let padding: [usize; 4] = window.padding.into();
            for numbers in [
                &window.kernel,
                &window.stride,
                &window.dilation,
                &conv.out_size,
            ] {
                self.numbers(numbers);
            }
            self.numbers(&padding);
            self.numbers(&[conv.source, conv.out_channels, conv.groups]);
            self.numbers(&[conv.fraction_bits as usize, conv.shift as usize]);
        }
        self.number(layer.terms.len());
        layer.terms.iter().for_each(|term| self.term(term));
        self.number(layer.biases.len());
        for bias in &layer.biases {
            self.text(&bias.op);
            self.numbers(&[bias.fraction_bits as usize, bias.shift as usize, bias.plane]);
        }
        self.0.update(&layer.constant.to_le_bytes());
        self.shape(layer.shape);
        let bits = [
            layer.fraction_bits,
            layer.truncated_bits,
            layer.accumulator_bits,
            layer.mean_bits,
        ];
        self.numbers(&bits.map(|b| b as usize));
        let kept = layer.relu.as_ref().map_or(&[][..], |relu| relu.kept());
        self.number(usize::from(layer.relu.is_some()));
        self.number(kept.len());
        for position in kept {
            self.0.update(&position.to_le_bytes());
        }
    }
}
