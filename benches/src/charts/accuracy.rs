//! Accuracy against online latency: what a ReLU less costs and brings.

use plotters::prelude::*;

use super::{FONT, SIZE, axes, bad, draw, frame, number};
use crate::error::BenchError;

/// Accuracy against online latency, one point a model.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn accuracy(title: &str, points: &[(String, f64, f64)]) -> Result<String, BenchError> {
    let x_max = points.iter().map(|p| p.1).fold(1e-9, f64::max) * 1.35;
    let low = points.iter().map(|p| p.2).fold(100.0, f64::min) - 2.0;
    draw(SIZE, |area| {
        let high = points.iter().map(|p| p.2).fold(low + 1.0, f64::max) + 1.0;
        let mut chart = frame(area, title, 90, 0.0..x_max, low..high)?;
        axes(
            &mut chart,
            "online latency, ms",
            Some("accuracy, %"),
            number,
        )?;
        chart
            .draw_series(points.iter().map(|(name, x, y)| {
                EmptyElement::at((*x, *y))
                    + Circle::new((0, 0), 5, BLACK.filled())
                    + Text::new(name.clone(), (9, -8), (FONT, 18))
            }))
            .map_err(bad)?;
        Ok(())
    })
}
