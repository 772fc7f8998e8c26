//! The pictures of a report, as SVG. Greys differ enough to be told apart in print without colour; every area is outlined.
//!
//! Here: what the pictures share, which is the frame, the axes, the legend and the greys.

mod accuracy;
mod layers;
mod stack;
mod timeline;

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::BenchError;
use crate::result::Run;
use crate::stats;

pub use accuracy::accuracy;
pub use layers::layers;
pub use stack::{Series, Stack, stack};
pub use timeline::timeline;

const SIZE: (u32, u32) = (720, 470);
const FONT: &str = "sans-serif";
/// Dark to light: the parts of a stack, the lowest first.
const GREYS: [RGBColor; 3] = [
    RGBColor(60, 72, 96),
    RGBColor(142, 160, 190),
    RGBColor(226, 231, 240),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn bad(error: impl std::fmt::Display) -> BenchError {
    BenchError::Drawing(error.to_string())
}

/// A titled frame with room of `left` pixels for names or numbers.
fn frame<'a, 'b>(
    area: &Area<'b>,
    title: &str,
    left: u32,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<Chart<'a, 'b>, BenchError> {
    ChartBuilder::on(area)
        .caption(title, (FONT, 24))
        .margin(12)
        .x_label_area_size(58)
        .y_label_area_size(left)
        .build_cartesian_2d(x, y)
        .map_err(bad)
}

/// Axes with numbers; without a name for it, the upright axis has none.
fn axes(
    chart: &mut Chart<'_, '_>,
    x_name: &str,
    y_name: Option<&str>,
    x_text: fn(f64) -> String,
) -> Result<(), BenchError> {
    let x_text = |x: &f64| x_text(*x);
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(220, 220, 220))
        .x_desc(x_name)
        .x_labels(6)
        .x_label_formatter(&x_text)
        .label_style((FONT, 20));
    match y_name {
        Some(name) => mesh.y_desc(name).y_labels(6),
        None => mesh.disable_y_mesh().disable_y_axis().y_labels(0),
    };
    mesh.draw().map_err(bad)
}

/// A name at the left border, at the height `y`.
fn name_row(area: &Area<'_>, chart: &Chart<'_, '_>, y: f64, name: &str) -> Result<(), BenchError> {
    let (x, y) = chart.backend_coord(&(0.0, y));
    let style = TextStyle::from((FONT, 18).into_font()).pos(Pos::new(HPos::Right, VPos::Center));
    area.draw(&Text::new(name.to_owned(), (x - 8, y), style))
        .map_err(bad)
}

/// Rectangles of one style, `[left, right, bottom, top]`, with their entry in the legend.
fn bars<'a, 'b: 'a>(
    chart: &mut Chart<'a, 'b>,
    name: &str,
    style: impl Into<ShapeStyle>,
    bars: impl Iterator<Item = [f64; 4]>,
) -> Result<(), BenchError> {
    let style = style.into();
    chart
        .draw_series(bars.map(|[x0, x1, y0, y1]| Rectangle::new([(x0, y0), (x1, y1)], style)))
        .map_err(bad)?
        .label(name)
        .legend(move |(x, y)| {
            let corners = [(x, y - 7), (x + 22, y + 7)];
            EmptyElement::at((0, 0))
                + Rectangle::new(corners, style)
                + Rectangle::new(corners, BLACK.stroke_width(1))
        });
    Ok(())
}

fn legend<'a, 'b: 'a>(
    chart: &mut Chart<'a, 'b>,
    position: SeriesLabelPosition,
) -> Result<(), BenchError> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .legend_area_size(34)
        .label_font((FONT, 18))
        .draw()
        .map_err(bad)
}

fn draw(
    size: (u32, u32),
    body: impl FnOnce(&Area) -> Result<(), BenchError>,
) -> Result<String, BenchError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(bad)?;
        body(&area)?;
        area.present().map_err(bad)?;
    }
    Ok(svg)
}

fn thousands(x: f64) -> String {
    if x >= 1e3 {
        format!("{}k", (x / 100.0).round() / 10.0)
    } else {
        format!("{x:.0}")
    }
}

/// At most four decimals, and no zeros after them.
fn number(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Floor and slope of the online median over ReLUs: seconds, seconds for each ReLU.
#[must_use]
pub fn fit(runs: &[&Run]) -> Option<(f64, f64)> {
    let points: Vec<(f64, f64)> = runs
        .iter()
        .map(|r| (r.model.relus_kept as f64, r.phases.online.latency.median_s))
        .collect();
    stats::line(&points)
}
