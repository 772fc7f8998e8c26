//! How far a long command is, where somebody looks.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on the standard error if that is a terminal; it goes when it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar that says `what` is done.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new(0).with_message(what);
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// Shows that `n` of `of` are done.
    pub fn at(&self, n: usize, of: usize) {
        self.0.set_length(of as u64);
        self.0.set_position(n as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
