//! The server's layers online: integer convolutions, and what it does at each position.

use pi_model::linear;
use pi_model::relu_set::{gather, scatter};
use pi_model::spec::OutputMode;
use pi_protocol::primitives::Layout;
use pi_protocol::session::SessionOptions;

use super::fit::fit;
use super::{Rates, typical};
use crate::arch::Arch;
use crate::error::BenchError;
use crate::predict::work_of_layers;

impl Rates {
    /// Measures multiply-add, weight and value by the layers of a reference network, one after the other as in an
    /// inference: by the time that a layer's weights are needed again, the other layers' have pushed them out of the
    /// caches. Then the position, by its largest layer.
    pub(super) fn layers(&mut self) -> Result<(), BenchError> {
        let model = Arch::Reference.build("reference", 60_000, OutputMode::Logits)?;
        let plan = pi_model::PublicPlan::new(model.public(), 1)?;
        let graph = plan.graph();
        let tensors: Vec<Vec<u64>> = graph
            .tensors
            .iter()
            .map(|shape| {
                let values = 0..shape.n_values() as u64;
                values
                    .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20)
                    .collect()
            })
            .collect();
        let mut seconds = vec![Vec::new(); graph.layers.len()];
        for pass in 0..6 {
            for (layer, seconds) in graph.layers.iter().zip(&mut seconds) {
                let started = std::time::Instant::now();
                std::hint::black_box(linear::accumulate(&model, layer, &tensors));
                if pass > 0 {
                    seconds.push(started.elapsed().as_secs_f64());
                }
            }
        }
        let rows: Vec<_> = work_of_layers(&plan)
            .iter()
            .zip(&seconds)
            .map(|(work, s)| {
                let row = [work.n_multiply_adds, work.n_weights, work.n_values];
                (row.map(|n| n as f64), crate::stats::median(s))
            })
            .collect();
        [self.multiply_add_s, self.weight_s, self.value_s] = fit(&rows);

        let layout = Layout::new(&plan, SessionOptions::default())?;
        let largest = layout
            .relu_layers
            .iter()
            .max_by_key(|l| l.positions.n_positions());
        let Some(relu) = largest else { return Ok(()) };
        let values: Vec<u64> = tensors[relu.layer + 1].clone();
        let n = values.len();
        let (ring, out) = (relu.ring, relu.ring_out);
        self.position_s = typical(5, || {
            let masked: Vec<u64> = values
                .iter()
                .zip(&values)
                .map(|(&y, &s)| ring.add(y, s))
                .collect();
            let truncated: Vec<u64> = masked
                .iter()
                .map(|&v| out.reduce(ring.truncate_server(v, relu.truncated_bits)))
                .collect();
            let mut next = vec![0; n];
            let removed: Vec<u64> = gather(&truncated, relu.positions.removed())
                .iter()
                .zip(&values)
                .map(|(&v, &d)| out.add(v, d))
                .collect();
            scatter(&mut next, relu.positions.removed(), &removed);
            next
        }) / n as f64;
        Ok(())
    }
}
