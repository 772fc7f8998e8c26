//! Which average pools divide by a change of scale, and what their readers have to make up for.

use std::collections::BTreeMap;

use super::{pool_shift, shapes};
use crate::spec::{ModelSpec, Op};

/// The average pools whose division is a change of scale alone, by name, and what remains of it: 2^floor(log2 n) / n for windows of n
/// values. The weights of every operation that reads such a pool have to be multiplied by it. These are the pools without overlap and
/// padding that only convolutions and fully connected layers read, perhaps behind a flatten; all others divide by themselves.
#[must_use]
pub fn pool_remainders(spec: &ModelSpec) -> BTreeMap<String, f64> {
    let Ok(shapes) = shapes(spec) else {
        return BTreeMap::new();
    };
    let reader_takes = |name: &str| -> bool {
        let mut names = vec![name];
        let mut read = false;
        for op in &spec.ops {
            if op.inputs().iter().any(|i| names.contains(&i.as_str())) {
                match op {
                    Op::Flatten { name, .. } => names.push(name),
                    Op::Conv2d { .. } | Op::Linear { .. } => read = true,
                    _ => return false,
                }
            }
        }
        let last = spec.ops.last().map(Op::name);
        read && !names.iter().any(|&n| Some(n) == last)
    };
    let window_of = |op: &Op| match op {
        Op::GlobalAvgPool { input, .. } => {
            let shape = shapes[input];
            Some([shape.height, shape.width])
        }
        Op::AvgPool { input, window, .. } => {
            let shape = shapes[input];
            let k = window.kernel;
            let plain = window.stride == k && window.padding == Default::default();
            let divides = shape.height.is_multiple_of(k[0]) && shape.width.is_multiple_of(k[1]);
            (plain && divides).then_some(k)
        }
        _ => None,
    };
    let pools = spec.ops.iter().filter_map(|op| {
        let window = window_of(op).filter(|_| reader_takes(op.name()))?;
        let n = (window[0] * window[1]) as f64;
        let remains = f64::from(pool_shift(window)).exp2() / n;
        Some((op.name().to_owned(), remains))
    });
    pools.collect()
}
