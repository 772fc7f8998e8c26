//! A stack over numbers of ReLUs: latency or bytes by what they are for, with models of other systems as lines.

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::{GREYS, SIZE, axes, bad, draw, frame, legend, thousands};
use crate::error::BenchError;

/// One part of a stack, or a line to compare with.
pub struct Series {
    /// For the legend.
    pub name: String,
    /// ReLUs and value.
    pub points: Vec<(f64, f64)>,
}

/// A stack over numbers of ReLUs, and dashed lines over it.
pub struct Stack {
    /// Above the picture.
    pub title: String,
    /// With its unit.
    pub y_label: String,
    /// From below; all have the same abscissas.
    pub parts: Vec<Series>,
    /// Models of other systems.
    pub lines: Vec<Series>,
}

/// Draws a stack.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn stack(stack: &Stack) -> Result<String, BenchError> {
    let n = stack.parts.first().map_or(0, |p| p.points.len());
    let x_of = |i: usize| stack.parts[0].points[i].0;
    let sum_to = |part: usize, i: usize| -> f64 {
        stack.parts[..part]
            .iter()
            .filter_map(|p| p.points.get(i))
            .map(|p| p.1.max(0.0))
            .sum()
    };
    let x_max = (0..n).map(x_of).fold(1.0, f64::max) * 1.03;
    let tops = (0..n).map(|i| sum_to(stack.parts.len(), i));
    // Lines of other systems may leave the picture; the legend says their slope.
    let y_max = tops.fold(1e-9, f64::max) * 1.45;
    draw(SIZE, |area| {
        let mut chart = frame(area, &stack.title, 90, 0.0..x_max, 0.0..y_max)?;
        axes(&mut chart, "ReLUs kept", Some(&stack.y_label), thousands)?;
        for (part, series) in stack.parts.iter().enumerate() {
            let grey = GREYS[part.min(GREYS.len() - 1)];
            let upper = (0..n).map(|i| (x_of(i), sum_to(part + 1, i)));
            let lower = (0..n).rev().map(|i| (x_of(i), sum_to(part, i)));
            let outline: Vec<(f64, f64)> = upper.clone().chain(lower).collect();
            chart
                .draw_series([Polygon::new(outline, grey.filled())])
                .map_err(bad)?
                .label(&series.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 7), (x + 22, y + 7)], grey.filled()));
            chart
                .draw_series(LineSeries::new(upper.clone(), BLACK))
                .map_err(bad)?;
            chart
                .draw_series(upper.map(|point| Circle::new(point, 3, BLACK.filled())))
                .map_err(bad)?;
        }
        for (index, line) in stack.lines.iter().enumerate() {
            let (dash, gap) = if index == 0 { (10, 5) } else { (3, 5) };
            let inside = clipped(&line.points, y_max);
            chart
                .draw_series(DashedLineSeries::new(
                    inside,
                    dash,
                    gap,
                    BLACK.stroke_width(2),
                ))
                .map_err(bad)?
                .label(&line.name)
                .legend(move |(x, y)| {
                    DashedPathElement::new([(x, y), (x + 22, y)], dash, gap, BLACK.stroke_width(2))
                });
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

/// Cuts a line through the origin's side at the upper border of the picture.
fn clipped(points: &[(f64, f64)], y_max: f64) -> Vec<(f64, f64)> {
    let mut inside: Vec<(f64, f64)> = Vec::new();
    for &(x, y) in points {
        if y <= y_max {
            inside.push((x, y));
        } else {
            if let Some(&(x0, y0)) = inside.last() {
                inside.push((x0 + (x - x0) * (y_max - y0) / (y - y0), y_max));
            }
            break;
        }
    }
    inside
}
