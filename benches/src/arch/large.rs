//! Networks for images of 224 x 224 pixels and 1000 classes, with random weights.
//!
//! ResNet-50 after He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), its stem pooled by average; SqueezeNet 1.1
//! after Iandola et al., "SqueezeNet" (2016), with max pools, each before its ReLU: the two commute, and three quarters of the
//! ReLUs go.

use pi_model::random::RandomModel;
use pi_model::spec::{Op, OutputMode, Window};
use pi_model::{Model, Result};

/// Spreads a budget of ReLUs evenly over layers, of which it is told one after another.
struct Budget {
    /// ReLUs of the whole network; none while they are counted.
    total: Option<usize>,
    relus: usize,
    seen: usize,
}

impl Budget {
    fn keep(&mut self, n: usize) -> usize {
        let share = |seen: usize, total: usize| {
            (seen as u128 * self.relus.min(total) as u128 / total as u128) as usize
        };
        let before = self.seen;
        self.seen += n;
        match self.total {
            Some(total) => share(self.seen, total) - share(before, total),
            None => 0,
        }
    }
}

/// A network in the making.
struct Builder {
    net: RandomModel,
    budget: Budget,
}

impl Builder {
    fn conv(&mut self, name: &str, input: &str, filters: usize, [k, s, p]: [usize; 3]) {
        self.net.conv(name, input, filters, k, s, p);
    }

    fn relu(&mut self, input: &str) -> String {
        let name = format!("{input}.relu");
        let kept = self.budget.keep(self.net.shape(input).n_values());
        self.net.relu(&name, input, kept);
        name
    }

    /// A max pool of 3 x 3 with stride 2, without padding, before a ReLU.
    fn max_pool_and_relu(&mut self, input: &str) -> String {
        let name = format!("{input}.pool");
        self.net.op(Op::MaxPool {
            name: name.clone(),
            input: input.to_owned(),
            window: Window::square(3, 2, 0),
        });
        self.relu(&name)
    }
}

/// Counts the ReLUs of what `build` makes, then makes it with at most `relus` of them, spread evenly.
fn build(
    name: &str,
    relus: usize,
    mode: OutputMode,
    build: impl Fn(&mut Builder),
) -> Result<Model> {
    let mut total = None;
    loop {
        let mut builder = Builder {
            net: RandomModel::new(name, [3, 224, 224], 7),
            budget: Budget {
                total,
                relus,
                seen: 0,
            },
        };
        build(&mut builder);
        if total.is_some() {
            return builder.net.finish(mode, 2);
        }
        total = Some(builder.budget.seen);
    }
}

/// ResNet-50.
pub(super) fn resnet50(name: &str, relus: usize, mode: OutputMode) -> Result<Model> {
    build(name, relus, mode, |b| {
        b.conv("stem", "input", 64, [7, 2, 3]);
        let stem = b.relu("stem");
        b.net.pool("stem.pool", &stem, Some(2));
        let mut from = "stem.pool".to_owned();
        for (stage, (width, n_blocks)) in [(64, 3), (128, 4), (256, 6), (512, 3)]
            .into_iter()
            .enumerate()
        {
            for block in 0..n_blocks {
                let p = format!("stage{stage}.block{block}");
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                b.conv(&format!("{p}.conv1"), &from, width, [1, 1, 0]);
                let first = b.relu(&format!("{p}.conv1"));
                b.conv(&format!("{p}.middle"), &first, width, [3, stride, 1]);
                let second = b.relu(&format!("{p}.middle"));
                b.conv(&format!("{p}.conv2"), &second, 4 * width, [1, 1, 0]);
                let skip = if block == 0 {
                    b.conv(&format!("{p}.shortcut"), &from, 4 * width, [1, stride, 0]);
                    format!("{p}.shortcut")
                } else {
                    from
                };
                b.net.add(&format!("{p}.add"), &format!("{p}.conv2"), &skip);
                from = b.relu(&format!("{p}.add"));
            }
        }
        b.net
            .pool("pool", &from, None)
            .classifier("fc", "pool", 1000);
    })
}

/// SqueezeNet 1.1.
pub(super) fn squeezenet(name: &str, relus: usize, mode: OutputMode) -> Result<Model> {
    build(name, relus, mode, |b| {
        b.conv("stem", "input", 64, [3, 2, 0]);
        let mut from = b.max_pool_and_relu("stem");
        let fires = [16, 16, 32, 32, 48, 48, 64, 64];
        for (index, squeeze) in fires.into_iter().enumerate() {
            let p = format!("fire{}", index + 2);
            b.conv(&format!("{p}.squeeze"), &from, squeeze, [1, 1, 0]);
            let squeezed = b.relu(&format!("{p}.squeeze"));
            let pooled = index == 1 || index == 3;
            let expanded = [("expand1", [1, 1, 0]), ("expand3", [3, 1, 1])].map(|(kind, form)| {
                let name = format!("{p}.{kind}");
                b.conv(&name, &squeezed, 4 * squeeze, form);
                match pooled {
                    true => b.max_pool_and_relu(&name),
                    false => b.relu(&name),
                }
            });
            b.net.op(Op::Concat {
                name: p.clone(),
                inputs: expanded.to_vec(),
            });
            from = p;
        }
        b.conv("classifier", &from, 1000, [1, 1, 0]);
        let last = b.relu("classifier");
        b.net.pool("pool", &last, None);
        b.net.flatten("logits", "pool");
    })
}
