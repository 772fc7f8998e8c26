//! One inference: what the client and the server computed, and each message from the moment it was handed over to the moment
//! it had arrived whole. Both by their own clocks, which are one machine's.

use plotters::prelude::*;

use pi_protocol::record::Party;

use super::{GREYS, SIZE, axes, bad, bars, draw, frame, legend, name_row, number};
use crate::error::BenchError;
use crate::result::{Run, TimelineEvent};

/// Heights of the lanes; the wire is between them.
const CLIENT: (f64, f64) = (2.2, 2.8);
const SERVER: (f64, f64) = (0.2, 0.8);

/// When the messages of `sender` left and arrived, in seconds.
fn travels(events: &[TimelineEvent], sender: Party) -> Vec<(f64, f64)> {
    let of = |kind: &'static str, own: bool| {
        events
            .iter()
            .filter(move |e| e.kind == kind && (e.party == sender) == own)
    };
    // A kind of message is sent once in a layer.
    let arrival = |sent: &TimelineEvent| {
        of("received", false).find(|e| (&e.what, e.layer) == (&sent.what, sent.layer))
    };
    of("sent", true)
        .filter_map(|sent| Some((sent.start_s, arrival(sent)?.start_s)))
        .collect()
}

/// Draws the inference with the median latency.
///
/// # Errors
/// [`BenchError::Drawing`].
pub fn timeline(run: &Run) -> Result<String, BenchError> {
    let events = &run.timeline;
    let ends = events.iter().map(|e| e.start_s + e.seconds);
    let end = 1e3 * ends.fold(0.0, f64::max);
    draw((SIZE.0, 440), |area| {
        let title = format!(
            "One inference: {} over {}",
            run.model.name, run.network.name
        );
        let mut chart = frame(area, &title, 84, 0.0..(end * 1.02).max(1e-6), 0.0..5.4)?;
        axes(&mut chart, "ms since the masked input left", None, number)?;
        let computed = |party: Party, wanted: &'static [&'static str]| {
            let (bottom, top) = if party == Party::Client {
                CLIENT
            } else {
                SERVER
            };
            let of = events
                .iter()
                .filter(move |e| e.party == party && e.kind == "compute")
                .filter(move |e| wanted.contains(&e.what.as_str()));
            of.map(move |e| {
                let from = 1e3 * e.start_s.max(0.0);
                [from, 1e3 * (e.start_s + e.seconds), bottom, top]
            })
        };
        let [dark, middle, _] = GREYS.map(|grey| grey.filled());
        let linear = computed(Party::Server, &["linear", "truncate"]);
        bars(&mut chart, "linear layers", dark, linear)?;
        let relu = computed(Party::Server, &["labels", "multiplex"]);
        let relu = relu.chain(computed(Party::Client, &["evaluate"]));
        bars(&mut chart, "ReLU: labels, evaluation", middle, relu)?;
        let grey = RGBColor(120, 120, 120).stroke_width(2);
        let ways = [
            (
                Party::Client,
                "message up",
                BLACK.stroke_width(1),
                [CLIENT.0, SERVER.1],
            ),
            (Party::Server, "message down", grey, [SERVER.1, CLIENT.0]),
        ];
        for (sender, name, style, [from_y, to_y]) in ways {
            let lines = travels(events, sender).into_iter().map(|(left, arrived)| {
                PathElement::new([(1e3 * left, from_y), (1e3 * arrived, to_y)], style)
            });
            chart
                .draw_series(lines)
                .map_err(bad)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        for (name, y) in [("client", 2.5), ("wire", 1.5), ("server", 0.5)] {
            name_row(area, &chart, y, name)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_travels_from_its_sender_to_the_other_party() {
        let event = |party, kind: &str, what: &str, layer, start_s| TimelineEvent {
            party,
            kind: kind.into(),
            what: what.into(),
            layer: Some(layer),
            bytes: 1,
            start_s,
            seconds: 0.0,
        };
        let events = [
            event(Party::Client, "sent", "masked input", 0, 0.0),
            event(Party::Server, "received", "masked input", 0, 0.2),
            event(Party::Server, "sent", "labels", 0, 0.3),
            event(Party::Server, "sent", "labels", 1, 0.7),
            event(Party::Client, "received", "labels", 0, 0.5),
        ];
        assert_eq!(travels(&events, Party::Client), [(0.0, 0.2)]);
        assert_eq!(travels(&events, Party::Server), [(0.3, 0.5)]);
    }
}
