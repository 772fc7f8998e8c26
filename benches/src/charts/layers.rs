//! Online time of each round trip by who spends it: the server in its linear layers and in labels, the client in evaluating,
//! and the rest on the wire. Below each bar what plan and calibration predict.

use plotters::prelude::*;

use super::{GREYS, SIZE, axes, bad, bars, draw, frame, legend, name_row, number};
use crate::error::BenchError;
use crate::result::Run;

/// One round trip, in milliseconds.
struct Row {
    name: String,
    /// The server's linear layers, its labels, the client, the rest.
    parts: [f64; 4],
    predicted: f64,
}

impl Row {
    /// Where a part begins and ends.
    fn span(&self, part: usize) -> (f64, f64) {
        let from = self.parts[..part].iter().sum();
        (from, from + self.parts[part])
    }
}

/// Layers without a round trip belong to the next one that has one.
fn rows(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut predicted, mut linear, mut relu) = (0.0, 0.0, 0.0);
    for layer in &run.layers {
        predicted += layer.online_predicted_s;
        linear += layer.online_server_linear_s;
        relu += layer.online_server_relu_s;
        if layer.online_wait_s + layer.online_client_s > 0.0 {
            let [linear, relu] = [&mut linear, &mut relu].map(std::mem::take);
            let rest = (layer.online_wait_s - linear - relu).max(0.0);
            rows.push(Row {
                name: layer.name.clone(),
                parts: [linear, relu, layer.online_client_s, rest].map(|s| 1e3 * s),
                predicted: 1e3 * std::mem::take(&mut predicted),
            });
        }
    }
    rows
}

/// Measured and predicted online time of each layer that has a round trip.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn layers(run: &Run) -> Result<String, BenchError> {
    let rows = rows(run);
    let widest = |r: &Row| r.parts.iter().sum::<f64>().max(r.predicted);
    let x_max = rows.iter().map(widest).fold(1e-9, f64::max) * 1.05;
    let n = rows.len() as f64;
    let size = (SIZE.0, 256 + 34 * rows.len() as u32);
    draw(size, |area| {
        let title = format!(
            "Online time by layer: {} over {}",
            run.model.name, run.network.name
        );
        // Room for the legend below the last bar.
        let room = 4.2;
        let mut chart = frame(area, &title, 210, 0.0..x_max, -room..n)?;
        axes(&mut chart, "ms", None, number)?;
        let y = |i: usize| n - 1.0 - i as f64;
        let told = !run.phases.online.operations_s_server.is_empty();
        let rest = if told {
            "wire and the rest"
        } else {
            "client waits for server and wire"
        };
        let outlined = BLACK.stroke_width(1);
        let [dark, middle, light] = GREYS.map(|grey| grey.filled());
        let kinds = [
            (0, "server: linear layers", dark),
            (1, "server: labels, multiplexer", middle),
            (2, "client: evaluates", light),
            (3, rest, WHITE.filled()),
        ];
        for (part, name, style) in kinds {
            if part < 2 && !told {
                continue;
            }
            let spans = rows.iter().enumerate().map(|(i, row)| {
                let (from, to) = row.span(part);
                [from, to, y(i) + 0.48, y(i) + 0.88]
            });
            bars(&mut chart, name, style, spans)?;
        }
        let whole = rows.iter().enumerate();
        let whole = whole.map(|(i, row)| [0.0, row.span(3).1, y(i) + 0.48, y(i) + 0.88]);
        chart
            .draw_series(
                whole.map(|[x0, x1, y0, y1]| Rectangle::new([(x0, y0), (x1, y1)], outlined)),
            )
            .map_err(bad)?;
        let predicted = rows.iter().enumerate();
        let predicted = predicted.map(|(i, row)| [0.0, row.predicted, y(i) + 0.26, y(i) + 0.36]);
        bars(&mut chart, "predicted", BLACK.filled(), predicted)?;
        for (i, row) in rows.iter().enumerate() {
            name_row(area, &chart, y(i) + 0.55, &row.name)?;
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}
