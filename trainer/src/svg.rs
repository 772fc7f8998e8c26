//! Charts as SVG text, for files and for the report's page. Colours are told apart without relying on
//! red and green (Okabe, Ito 2008).

use std::fmt::Write;

const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 270.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 52.0;
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31",
];

/// A line or a set of points.
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y).
    pub points: Vec<(f64, f64)>,
    /// Thin and dashed: somebody else's numbers.
    pub dashed: bool,
}

/// A chart of lines.
pub struct Lines {
    /// Heading.
    pub title: String,
    /// What x is.
    pub x: String,
    /// What y is.
    pub y: String,
    /// Logarithmic x axis.
    pub log_x: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// Text for SVG and HTML.
pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// A round step that cuts `span` into about `n` parts.
fn step(span: f64, n: f64) -> f64 {
    let raw = (span / n).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    let rest = raw / power;
    let round = [1.0, 2.0, 2.5, 5.0, 10.0];
    power * round.into_iter().find(|&r| rest <= r).unwrap_or(10.0)
}

fn short(v: f64) -> String {
    let text = if v.abs() >= 1000.0 {
        format!("{:.1}k", v / 1000.0)
    } else {
        format!("{v:.2}")
    };
    text.replace(".00", "").replace(".0k", "k")
}

struct Canvas {
    out: String,
}

impl Canvas {
    fn new(title: &str) -> Canvas {
        let out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{0}\" font-family=\"sans-serif\" font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{0}</text>",
            escape(title)
        );
        Canvas { out }
    }

    fn push(&mut self, arguments: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.out.write_fmt(arguments);
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((a, b), (c, d)) = (from, to);
        self.push(format_args!(
            "<line x1=\"{a:.1}\" y1=\"{b:.1}\" x2=\"{c:.1}\" y2=\"{d:.1}\" stroke=\"{colour}\"/>"
        ));
    }

    fn frame(&mut self, x: &str, y: &str) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        self.line((LEFT, bottom), (right, bottom), "#333");
        self.line((LEFT, TOP), (LEFT, bottom), "#333");
        self.text((LEFT + right) / 2.0, HEIGHT - 10.0, "middle", x);
        let (middle, y) = ((TOP + bottom) / 2.0, escape(y));
        self.push(format_args!(
            "<text transform=\"translate(16 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{y}</text>"
        ));
    }

    fn y_ticks(&mut self, low: f64, high: f64) {
        let gap = step(high - low, 5.0);
        let mut v = (low / gap).ceil() * gap;
        while v <= high + gap * 1e-6 {
            let y = place(v, low, high, HEIGHT - BOTTOM, TOP);
            self.line((LEFT, y), (WIDTH - RIGHT, y), "#e4e4e4");
            self.text(LEFT - 6.0, y + 4.0, "end", &short(v));
            v += gap;
        }
    }

    fn legend(&mut self, i: usize, colour: &str, name: &str) {
        let y = TOP + 8.0 + 16.0 * i as f64;
        let x = WIDTH - RIGHT + 12.0;
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            y - 9.0
        ));
        self.text(x + 16.0, y, "start", name);
    }

    fn end(mut self) -> String {
        self.out.push_str("</svg>");
        self.out
    }
}

fn place(v: f64, low: f64, high: f64, from: f64, to: f64) -> f64 {
    from + (v - low) / (high - low).max(1e-12) * (to - from)
}

/// Least and greatest, widened a little.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * 0.05).max(1e-3);
    (low - margin, high + margin)
}

impl Lines {
    /// The chart.
    pub fn draw(&self) -> String {
        let scale = |x: f64| if self.log_x { x.max(1e-9).log10() } else { x };
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (x0, x1) = range(points().map(|p| scale(p.0)));
        let (y0, y1) = range(points().map(|p| p.1));
        let x_at = |x: f64| place(scale(x), x0, x1, LEFT, WIDTH - RIGHT);
        let y_at = |y: f64| place(y, y0, y1, HEIGHT - BOTTOM, TOP);
        let mut c = Canvas::new(&self.title);
        c.y_ticks(y0, y1);
        let ticks: Vec<f64> = if self.log_x {
            let decades = (x0.floor() as i32)..=(x1.ceil() as i32);
            let of = |d: i32| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(d));
            decades.flat_map(of).collect()
        } else {
            // Whole numbers, such as epochs, have no ticks between them.
            let whole = points().all(|p| p.0.fract() == 0.0);
            let gap = step(x1 - x0, 8.0);
            let gap = if whole { gap.ceil() } else { gap };
            let first = (x0 / gap).ceil();
            (0..20).map(|i| (first + f64::from(i)) * gap).collect()
        };
        for x in ticks.into_iter().filter(|&x| (x0..=x1).contains(&scale(x))) {
            c.text(x_at(x), HEIGHT - BOTTOM + 16.0, "middle", &short(x));
        }
        c.frame(&self.x, &self.y);
        for (i, s) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let path: Vec<String> = s
                .points
                .iter()
                .map(|p| format!("{:.1},{:.1}", x_at(p.0), y_at(p.1)))
                .collect();
            let dash = if s.dashed {
                " stroke-dasharray=\"5 4\" stroke-width=\"1.2\""
            } else {
                " stroke-width=\"2\""
            };
            c.push(format_args!(
                "<polyline fill=\"none\" stroke=\"{colour}\"{dash} points=\"{}\"/>",
                path.join(" ")
            ));
            for p in &s.points {
                let radius = if s.dashed { 2.5 } else { 3.5 };
                c.push(format_args!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"{colour}\"><title>{}: {}, {:.2}</title></circle>",
                    x_at(p.0),
                    y_at(p.1),
                    escape(&s.name),
                    short(p.0),
                    p.1
                ));
            }
            c.legend(i, colour, &s.name);
        }
        c.end()
    }
}

/// Bars in groups: one group for each label, one bar for each series (name, values), the share of the
/// first series that the others take visible since they start at the same line.
pub fn bars(
    title: &str,
    x: &str,
    y: &str,
    labels: &[String],
    series: &[(String, Vec<f64>)],
) -> String {
    let mut c = Canvas::new(title);
    let values = series.iter().flat_map(|s| s.1.iter().copied());
    let high = values.fold(1e-9, f64::max) * 1.05;
    c.y_ticks(0.0, high);
    c.frame(x, y);
    let group = (WIDTH - RIGHT - LEFT) / labels.len().max(1) as f64;
    let width = group * 0.8 / series.len().max(1) as f64;
    for (k, (name, values)) in series.iter().enumerate() {
        let colour = COLOURS[k % COLOURS.len()];
        for (i, &v) in values.iter().enumerate() {
            let top = place(v, 0.0, high, HEIGHT - BOTTOM, TOP);
            c.push(format_args!(
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"><title>{}: {} {}</title></rect>",
                LEFT + group * (i as f64 + 0.1) + width * k as f64,
                HEIGHT - BOTTOM - top,
                labels.get(i).map_or(String::new(), |l| escape(l)),
                escape(name),
                short(v)
            ));
        }
        c.legend(k, colour, name);
    }
    // The last series in figures, too: its bars may be too small to be seen.
    if let (Some((_, values)), true) = (series.last(), group >= 36.0) {
        for (i, &v) in values.iter().enumerate() {
            let top = place(v, 0.0, high, HEIGHT - BOTTOM, TOP);
            let x = LEFT + group * (i as f64 + 0.1) + width * (series.len() as f64 - 0.5);
            c.text(x, top - 3.0, "middle", &short(v));
        }
    }
    let every = labels.len().div_ceil(20).max(1);
    for (i, _) in labels.iter().enumerate().step_by(every) {
        let x = LEFT + group * (i as f64 + 0.5);
        c.text(x, HEIGHT - BOTTOM + 16.0, "middle", &i.to_string());
    }
    c.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_well_formed_and_escape_their_text() {
        let lines = Lines {
            title: "a < b & c".into(),
            x: "x".into(),
            y: "y".into(),
            log_x: true,
            series: vec![Series {
                name: "<s>".into(),
                points: vec![(10.0, 1.0), (1000.0, 3.0)],
                dashed: true,
            }],
        };
        let empty = Lines {
            series: vec![],
            log_x: false,
            title: String::new(),
            x: String::new(),
            y: String::new(),
        };
        let bars = bars("t", "x", "y", &["l".into()], &[("s".into(), vec![3.0])]);
        for svg in [lines.draw(), empty.draw(), bars] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
            assert!(!svg.contains("NaN") && !svg.contains("<s>") && !svg.contains("a < b"));
        }
    }
}
