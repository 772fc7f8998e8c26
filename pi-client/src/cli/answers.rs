//! The answers of `infer`: as data for `--json`, as one line for each image, and beside the model in the clear.

use std::fmt::Write as _;

use pi_client::input::Input;
use pi_client::{Description, Prediction, Report};
use pi_model::text::shown;
use pi_model::{Model, ModelError, executor};
use serde::Serialize;

/// One answer.
#[derive(Serialize)]
pub(crate) struct Outcome {
    /// File or record.
    image: String,
    /// The true label, where known.
    label: Option<String>,
    /// The predicted label, where there are classes.
    prediction: Option<String>,
    /// The predicted class.
    class: Option<usize>,
    /// Labels and logits, the largest first; empty when only the class is opened.
    top: Vec<(String, f64)>,
    /// The outputs in their order, where they are no classes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<f64>,
    /// Online seconds.
    seconds: f64,
    /// Comparison with the model in the clear.
    check: Option<Check>,
}

/// Comparison with the model in the clear.
#[derive(Serialize)]
pub(crate) struct Check {
    /// The label that the plaintext executor predicts, where there are classes.
    prediction: Option<String>,
    /// Whether both predict the same class; where there are no classes, whether no output is off by more than a twentieth of the
    /// largest.
    agrees: bool,
    /// Largest difference of a logit, where logits are opened.
    max_logit_error: Option<f64>,
    /// Values outside the ranges for which the protocol is correct. They spoil an inference, and the model's
    /// calibration is at fault.
    n_range_violations: u64,
}

/// All answers of one run.
#[derive(Serialize)]
pub(crate) struct Run {
    results: Vec<Outcome>,
    /// Images whose true label is known.
    n_labelled: usize,
    /// Right ones among them.
    n_correct: usize,
    /// Images compared with the model in the clear.
    n_checked: usize,
    /// Agreeing ones among them.
    n_agree: usize,
    /// What it cost, if all went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
    /// Why it ended before all images were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Answers that are not as in the clear.
#[derive(Debug, thiserror::Error)]
#[error(
    "of {n_checked} images compared with the model in the clear {n_other} have another answer, and {n_outside} have values outside the model's ranges"
)]
pub(crate) struct Differs {
    n_checked: usize,
    n_other: usize,
    n_outside: usize,
}

impl Differs {
    pub(crate) const EXIT_CODE: u8 = 10;
    pub(crate) const MEANING: &str = "with --check: answers that are not as in the clear";
}

impl Outcome {
    /// The answer to `input` with at most `n_top` logits.
    pub(crate) fn new(
        input: &Input,
        answer: &Prediction,
        labels: &[String],
        n_top: usize,
        check: Option<Check>,
    ) -> Self {
        let top = answer.top(n_top).into_iter();
        Self {
            image: input.name.clone(),
            label: input
                .label
                .filter(|_| answer.class.is_some())
                .map(|class| label(labels, class)),
            prediction: answer.label.clone(),
            class: answer.class,
            top: top.map(|scored| (scored.label, scored.logit)).collect(),
            outputs: match answer.class {
                Some(_) => vec![],
                None => answer.logits.clone(),
            },
            seconds: answer.stats.online_seconds,
            check,
        }
    }
}

impl Check {
    /// Runs `model` in the clear on what was answered privately.
    ///
    /// # Errors
    /// [`ModelError::Input`] when the input has another size.
    pub(crate) fn of(
        model: &Model,
        input: &Input,
        answer: &Prediction,
    ) -> Result<Self, ModelError> {
        let clear = executor::run(model, &input.values)?;
        let layers = &model.public().graph().layers;
        let fraction_bits = layers.last().map_or(0, |layer| layer.fraction_bits);
        let scale = f64::from(fraction_bits).exp2();
        let pairs = answer.logits.iter().zip(&clear.logits);
        let differences = pairs.map(|(private, clear)| (private - *clear as f64 / scale).abs());
        let error = differences.reduce(f64::max);
        let sizes = clear.logits.iter().map(|&l| (l as f64 / scale).abs());
        let largest = sizes.fold(0.0, f64::max);
        let labels = &model.public().spec().labels;
        let expected = answer.class.map(|_| clear.class());
        Ok(Self {
            prediction: expected.map(|class| label(labels, class)),
            agrees: match answer.class {
                Some(class) => class == clear.class(),
                None => error.is_some_and(|error| error <= largest / 20.0),
            },
            max_logit_error: error,
            n_range_violations: clear.n_range_violations,
        })
    }
}

fn label(labels: &[String], class: usize) -> String {
    let known = labels.get(class).cloned();
    known.unwrap_or_else(|| format!("class {class}"))
}

impl Run {
    pub(crate) fn new(
        results: Vec<Outcome>,
        report: Option<Report>,
        error: Option<String>,
    ) -> Self {
        let labelled = results.iter().filter(|r| r.label.is_some());
        let checked = results.iter().filter_map(|r| r.check.as_ref());
        Self {
            n_labelled: labelled.clone().count(),
            n_correct: labelled.filter(|r| r.label == r.prediction).count(),
            n_checked: checked.clone().count(),
            n_agree: checked.filter(|c| c.agrees).count(),
            results,
            report,
            error,
        }
    }

    pub(crate) const fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// What `--check` found, unless all is well.
    pub(crate) fn differs(&self) -> Option<Differs> {
        let checks = || self.results.iter().filter_map(|r| r.check.as_ref());
        let differs = Differs {
            n_checked: self.n_checked,
            n_other: self.n_checked - self.n_agree,
            n_outside: checks().filter(|c| c.n_range_violations > 0).count(),
        };
        (differs.n_other + differs.n_outside > 0).then_some(differs)
    }

    /// How many were right, and as in the clear, where that is known.
    pub(crate) fn totals(&self) -> String {
        let mut lines = Vec::new();
        if self.n_labelled > 0 {
            lines.push(format!("{} of {} right", self.n_correct, self.n_labelled));
        }
        if self.n_checked > 0 {
            lines.push(format!(
                "{} of {} agree with the model in the clear",
                self.n_agree, self.n_checked
            ));
        }
        lines.join("\n")
    }
}

/// One line for each image, in columns.
pub(crate) struct Lines {
    image: usize,
    label: usize,
    top: Option<u16>,
}

impl Lines {
    pub(crate) fn new<'a>(
        names: impl Iterator<Item = &'a str>,
        description: &Description,
        top: Option<u16>,
    ) -> Self {
        let labels = &description.model.spec().labels;
        let width = |text: &str| shown(text).chars().count();
        let widest = labels.iter().map(|label| width(label)).max();
        Self {
            image: names.map(width).max().unwrap_or(0),
            // Of a thousand labels some are very long.
            label: widest.unwrap_or(0).min(24),
            top,
        }
    }

    pub(crate) fn line(&self, r: &Outcome) -> String {
        let (image, label) = (self.image, self.label);
        let (name, prediction) = (shown(&r.image), r.prediction.as_deref().map(shown));
        let prediction = prediction.unwrap_or_else(|| outputs(&r.outputs));
        let mut text = format!("{name:image$}  {prediction:label$}");
        if let Some((_, logit)) = r.top.first() {
            let n_others = self.top.map_or(2, |n| usize::from(n) - 1);
            let others: Vec<String> = r.top.iter().skip(1).take(n_others).map(scored).collect();
            let _ = write!(text, "  {logit:6.2}");
            if !others.is_empty() {
                let _ = write!(text, "   then {}", others.join(", "));
            }
        }
        match &r.label {
            _ if r.label.is_some() && r.label == r.prediction => text += "   right",
            Some(truth) => text += &format!("   wrong, it is {}", shown(truth)),
            None => {}
        }
        if let Some(check) = &r.check {
            text += &compared(check);
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn scored((label, logit): &(String, f64)) -> String {
    format!("{} {logit:.2}", shown(label))
}

/// The first outputs of those that are no classes.
fn outputs(values: &[f64]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = values
        .iter()
        .take(SHOWN)
        .map(|v| format!("{v:.3}"))
        .collect();
    let mut text = shown.join(" ");
    if values.len() > SHOWN {
        let _ = write!(text, " ... ({} values; --json prints all)", values.len());
    }
    text
}

fn compared(check: &Check) -> String {
    let mut text = match (check.agrees, &check.prediction) {
        (true, _) => "   as in the clear".to_owned(),
        (false, Some(other)) => format!("   IN THE CLEAR IT IS {}", shown(other)),
        (false, None) => "   NOT AS IN THE CLEAR".to_owned(),
    };
    if let Some(error) = check.max_logit_error {
        let what = match check.prediction {
            Some(_) => "logits",
            None => "outputs",
        };
        let _ = write!(text, ", {what} within {error:.3}");
    }
    if check.n_range_violations > 0 {
        let _ = write!(
            text,
            ", {} values outside the model's ranges",
            check.n_range_violations
        );
    }
    text
}
