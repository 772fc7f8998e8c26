//! The pictures of a report, as SVG. Greys differ enough to be told apart in print without colour; every area is outlined.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::error::BenchError;
use crate::result::Run;
use crate::stats;

const SIZE: (u32, u32) = (720, 470);
const FONT: &str = "sans-serif";
/// Dark to light: the parts of a stack, the lowest first.
const GREYS: [RGBColor; 3] = [
    RGBColor(60, 72, 96),
    RGBColor(142, 160, 190),
    RGBColor(226, 231, 240),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn bad(error: impl std::fmt::Display) -> BenchError {
    BenchError::Drawing(error.to_string())
}

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
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(&stack.title, (FONT, 24))
            .margin(12)
            .x_label_area_size(58)
            .y_label_area_size(90)
            .build_cartesian_2d(0.0..x_max, 0.0..y_max)
            .map_err(bad)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(220, 220, 220))
            .x_desc("ReLUs kept")
            .y_desc(&stack.y_label)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| thousands(*x))
            .label_style((FONT, 20))
            .draw()
            .map_err(bad)?;
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
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK)
            .legend_area_size(34)
            .label_font((FONT, 18))
            .draw()
            .map_err(bad)
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

/// Accuracy against online latency, one point a model.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn accuracy(title: &str, points: &[(String, f64, f64)]) -> Result<String, BenchError> {
    let x_max = points.iter().map(|p| p.1).fold(1e-9, f64::max) * 1.35;
    let low = points.iter().map(|p| p.2).fold(100.0, f64::min) - 2.0;
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 24))
            .margin(12)
            .x_label_area_size(58)
            .y_label_area_size(90)
            .build_cartesian_2d(
                0.0..x_max,
                low..(points.iter().map(|p| p.2).fold(low + 1.0, f64::max) + 1.0),
            )
            .map_err(bad)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(220, 220, 220))
            .x_desc("online latency, ms")
            .y_desc("accuracy, %")
            .label_style((FONT, 20))
            .draw()
            .map_err(bad)?;
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

/// Measured and predicted online time of each layer that has a round trip.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn layers(run: &Run) -> Result<String, BenchError> {
    // Layers without a round trip belong to the next one that has one.
    let mut rows: Vec<(String, f64, f64, f64)> = Vec::new();
    let mut predicted = 0.0;
    for layer in &run.layers {
        predicted += layer.online_predicted_s;
        if layer.online_wait_s + layer.online_client_s > 0.0 {
            let (wait, client) = (1e3 * layer.online_wait_s, 1e3 * layer.online_client_s);
            rows.push((
                layer.name.clone(),
                wait,
                client,
                1e3 * std::mem::take(&mut predicted),
            ));
        }
    }
    let x_max = rows
        .iter()
        .map(|r| (r.1 + r.2).max(r.3))
        .fold(1e-9, f64::max)
        * 1.05;
    let n = rows.len() as f64;
    let size = (SIZE.0, 216 + 34 * rows.len() as u32);
    draw_sized(size, |area| {
        let title = format!(
            "Online time by layer: {} over {}",
            run.model.name, run.network.name
        );
        let mut chart = ChartBuilder::on(area)
            .caption(&title, (FONT, 24))
            .margin(12)
            .x_label_area_size(58)
            .y_label_area_size(210)
            .build_cartesian_2d(0.0..x_max, -3.0..n)
            .map_err(bad)?;
        let names: Vec<String> = rows.iter().rev().map(|r| r.0.clone()).collect();
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(220, 220, 220))
            .x_desc("ms")
            .label_style((FONT, 20))
            .y_labels(0)
            .draw()
            .map_err(bad)?;
        let bar = |x0: f64, x1: f64, y0: f64, y1: f64, style: ShapeStyle| {
            Rectangle::new([(x0, y0), (x1, y1)], style)
        };
        let row = |i: usize| (n - 1.0 - i as f64, &rows[i]);
        let dark = GREYS[0];
        let light = GREYS[1];
        let all = 0..rows.len();
        chart
            .draw_series(all.clone().map(|i| {
                let (y, r) = row(i);
                bar(0.0, r.1, y + 0.48, y + 0.88, dark.filled())
            }))
            .map_err(bad)?
            .label("measured: client waits for server and wire")
            .legend(move |(x, y)| Rectangle::new([(x, y - 7), (x + 22, y + 7)], dark.filled()));
        chart
            .draw_series(all.clone().map(|i| {
                let (y, r) = row(i);
                bar(r.1, r.1 + r.2, y + 0.48, y + 0.88, light.filled())
            }))
            .map_err(bad)?
            .label("measured: client evaluates")
            .legend(move |(x, y)| Rectangle::new([(x, y - 7), (x + 22, y + 7)], light.filled()));
        chart
            .draw_series(all.map(|i| {
                let (y, r) = row(i);
                bar(0.0, r.3, y + 0.12, y + 0.46, BLACK.stroke_width(1))
            }))
            .map_err(bad)?
            .label("predicted")
            .legend(|(x, y)| Rectangle::new([(x, y - 7), (x + 22, y + 7)], BLACK.stroke_width(1)));
        for (i, name) in names.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(0.0, i as f64 + 0.5));
            let style = TextStyle::from((FONT, 18).into_font()).pos(
                plotters::style::text_anchor::Pos::new(
                    plotters::style::text_anchor::HPos::Right,
                    plotters::style::text_anchor::VPos::Center,
                ),
            );
            area.draw(&Text::new(name.clone(), (x - 8, y), style))
                .map_err(bad)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK)
            .legend_area_size(34)
            .label_font((FONT, 18))
            .draw()
            .map_err(bad)
    })
}

/// One inference: what the client did, what was on the wire, and when the server must have been at work.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn timeline(run: &Run) -> Result<String, BenchError> {
    let events = &run.timeline;
    let end = events
        .iter()
        .map(|e| e.start_s + e.seconds)
        .fold(0.0, f64::max)
        * 1e3;
    let one_way_ms = run.network.round_trip_ms / 2.0;
    draw_sized((SIZE.0, 440), |area| {
        let title = format!(
            "One inference: {} over {}",
            run.model.name, run.network.name
        );
        let mut chart = ChartBuilder::on(area)
            .caption(&title, (FONT, 24))
            .margin(12)
            .x_label_area_size(58)
            .y_label_area_size(84)
            .build_cartesian_2d(0.0..(end * 1.02).max(1e-6), 0.0..5.4)
            .map_err(bad)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(220, 220, 220))
            .x_desc("ms since the masked input left")
            .label_style((FONT, 20))
            .y_labels(0)
            .draw()
            .map_err(bad)?;
        let of = |kind: &'static str| events.iter().filter(move |e| e.kind == kind);
        let light = GREYS[1];
        chart
            .draw_series(of("compute").map(|e| {
                let x = 1e3 * e.start_s;
                Rectangle::new([(x, 2.2), (x + 1e3 * e.seconds, 2.8)], light.filled())
            }))
            .map_err(bad)?
            .label("evaluates")
            .legend(move |(x, y)| Rectangle::new([(x, y - 7), (x + 22, y + 7)], light.filled()));
        let dark = GREYS[0];
        // A wait of the client, less the way there and back, is the server's turn and the bytes' time on the wire.
        chart
            .draw_series(of("wait").filter_map(|e| {
                let from = 1e3 * e.start_s + one_way_ms;
                let to = 1e3 * (e.start_s + e.seconds) - one_way_ms;
                (to > from).then(|| Rectangle::new([(from, 0.2), (to, 0.8)], dark.filled()))
            }))
            .map_err(bad)?
            .label("server at work, bytes leaving")
            .legend(move |(x, y)| Rectangle::new([(x, y - 7), (x + 22, y + 7)], dark.filled()));
        let way = |e: &crate::result::TimelineEvent| {
            let t = 1e3 * e.start_s;
            if e.kind == "sent" {
                [(t, 1.95), (t + one_way_ms, 1.05)]
            } else {
                [(t - one_way_ms, 1.05), (t, 1.95)]
            }
        };
        chart
            .draw_series(of("sent").map(|e| PathElement::new(way(e), BLACK)))
            .map_err(bad)?
            .label("message up")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], BLACK));
        chart
            .draw_series(of("received").flat_map(|e| {
                let [a, b] = way(e);
                [PathElement::new(
                    [a, b],
                    RGBColor(120, 120, 120).stroke_width(2),
                )]
            }))
            .map_err(bad)?
            .label("message down")
            .legend(|(x, y)| {
                PathElement::new(
                    [(x, y), (x + 22, y)],
                    RGBColor(120, 120, 120).stroke_width(2),
                )
            });
        for (name, y) in [("client", 2.5), ("wire", 1.5), ("server", 0.5)] {
            let (x, y) = chart.backend_coord(&(0.0, y));
            let style = TextStyle::from((FONT, 20).into_font()).pos(
                plotters::style::text_anchor::Pos::new(
                    plotters::style::text_anchor::HPos::Right,
                    plotters::style::text_anchor::VPos::Center,
                ),
            );
            area.draw(&Text::new(name, (x - 8, y), style))
                .map_err(bad)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK)
            .legend_area_size(34)
            .label_font((FONT, 18))
            .draw()
            .map_err(bad)
    })
}

fn draw(body: impl FnOnce(&Area) -> Result<(), BenchError>) -> Result<String, BenchError> {
    draw_sized(SIZE, body)
}

fn draw_sized(
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

/// Floor and slope of the online median over ReLUs: seconds, seconds for each ReLU.
#[must_use]
pub fn fit(runs: &[&Run]) -> Option<(f64, f64)> {
    let points: Vec<(f64, f64)> = runs
        .iter()
        .map(|r| (r.model.relus_kept as f64, r.phases.online.latency.median_s))
        .collect();
    stats::line(&points)
}
