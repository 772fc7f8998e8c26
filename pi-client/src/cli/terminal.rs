//! What a terminal sees of a client at work: a bar of bytes, tries that failed, notes; and the phase that Ctrl-C tells of.

use std::io::IsTerminal as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pi_client::ClientError;
use pi_client::observer::{Activity, Note, Observer, Work};
use pi_model::text;

use super::interrupt::{self, Doing, During};

const TEMPLATE: &str = "{msg} {bar:30} {decimal_bytes} of {decimal_total_bytes}  {elapsed}";

/// Shows what a client does on standard error: bars and tries to a terminal alone, notes also to a pipe.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terminal;

impl Observer for Terminal {
    fn begins(&self, work: &Work) -> Box<dyn Send> {
        let (doing, message) = match work.activity {
            Activity::Connecting => (Doing::Connecting, None),
            Activity::SettingUp => (Doing::SettingUp, None),
            Activity::Preparing { n, n_left } => (Doing::Preparing, Some(preparing(n, n_left))),
            Activity::Keeping { n, n_left } => (Doing::Keeping, Some(preparing(n, n_left))),
            Activity::Inferring => (Doing::Inferring, Some("inferring".to_owned())),
            _ => (Doing::Idle, None),
        };
        Box::new(Shown {
            _bar: message.map(|message| Bar::new(message, work.clone())),
            _phase: interrupt::during(doing),
        })
    }

    fn tries_again(&self, error: &ClientError, wait: Duration) {
        tell_wait(error, wait);
    }

    fn notes(&self, note: &Note) {
        eprintln!("note: {note}");
    }
}

/// Tells a terminal that something is tried again.
pub(crate) fn tell_wait(error: &ClientError, wait: Duration) {
    if std::io::stderr().is_terminal() {
        let error = text::shown(&error.to_string());
        eprintln!("{error}; trying again in {:.1} s", wait.as_secs_f64());
    }
}

/// What stands before the bar.
fn preparing(n: usize, n_left: usize) -> String {
    format!("preparing {n}, {n_left} to go")
}

/// Held while work is under way.
struct Shown {
    _bar: Option<Bar>,
    _phase: During,
}

/// A bar of the bytes of some work, which appears when it takes longer than a moment.
struct Bar {
    bar: ProgressBar,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Bar {
    fn new(message: String, work: Work) -> Self {
        let bar = ProgressBar::with_draw_target(work.n_bytes, ProgressDrawTarget::hidden());
        // The template is ours: a test looks at it.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(message);
        let (stop, stopped) = mpsc::channel::<()>();
        let ticker = std::thread::spawn({
            let bar = bar.clone();
            move || {
                let moment = Duration::from_millis(100);
                while stopped.recv_timeout(moment) == Err(RecvTimeoutError::Timeout) {
                    if bar.is_hidden() {
                        bar.set_draw_target(ProgressDrawTarget::stderr());
                    }
                    bar.set_position(work.n_bytes_done());
                    bar.tick();
                }
            }
        });
        let ticker = Some((stop, ticker));
        Self { bar, ticker }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((stop, ticker)) = self.ticker.take() {
            drop(stop);
            // The ticker cannot fail in a way that matters to the result.
            let _ = ticker.join();
        }
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_a_style() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
