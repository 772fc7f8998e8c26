//! Why a plan packs as it does: for each source the chosen packing beside those that came next.

use std::fmt;

use super::{DEGREE, PublicPlan, Region, SourcePlan};
use crate::error::{ModelError, Result};
use crate::packing::{PackingCost, PackingGoal, RankedPacking, SourceSpec, rank};

/// The packings of each source, and what they would cost.
#[derive(Clone, Debug)]
pub struct Explanation {
    batch: usize,
    goal: PackingGoal,
    sources: Vec<Explained>,
}

#[derive(Clone, Debug)]
struct Explained {
    name: String,
    joined: Vec<String>,
    spec: SourceSpec,
    /// The chosen one, then the next best.
    ranked: Vec<RankedPacking>,
}

impl PublicPlan {
    /// The choice for each source, and the `n_others` that came next.
    ///
    /// # Errors
    /// None that making the plan would not have met.
    pub fn explain(&self, n_others: usize) -> Result<Explanation> {
        let layers = &self.graph().layers;
        let mut sources = Vec::with_capacity(self.sources.len());
        for (index, source) in self.sources.iter().enumerate() {
            let of_source = || self.responses.iter().filter(|r| r.source == index);
            let name = |(layer, conv): (usize, usize)| layers[layer].convs[conv].op.clone();
            let own: Vec<String> = of_source().map(|r| name((r.layer, r.convs[0]))).collect();
            let joined = of_source().flat_map(|r| r.convs[1..].iter().map(|&c| (r.layer, c)));
            let spec = source.packing.spec();
            let bits = source.ring.bits();
            sources.push(Explained {
                name: own.join(", ") + &self.band_of(source),
                joined: joined.map(name).collect(),
                spec: spec.clone(),
                ranked: rank(spec, DEGREE, bits, &self.goal, n_others + 1)
                    .map_err(|e| ModelError::Plan(e.to_string()))?,
            });
        }
        Ok(Explanation {
            batch: self.batch,
            goal: self.goal,
            sources,
        })
    }
}

impl PublicPlan {
    /// Which part of a map that is cut into bands; nothing for a whole one.
    fn band_of(&self, source: &SourcePlan) -> String {
        let shape = self.graph().sources[source.source].shape;
        let Region {
            first: [row, column],
            size: [rows, columns],
        } = source.band;
        if [rows, columns] == [shape.height, shape.width] {
            return String::new();
        }
        let rows = format!(" (rows {row} to {}", row + rows - 1);
        match columns == shape.width {
            true => format!("{rows})"),
            false => format!("{rows}, columns {column} to {})", column + columns - 1),
        }
    }
}

impl Explanation {
    /// Cost of the chosen packings, for the whole batch.
    #[must_use]
    pub fn total(&self) -> PackingCost {
        let mut total = PackingCost::default();
        let chosen = self.sources.iter().filter_map(|s| s.ranked.first());
        chosen.for_each(|best| total += best.cost);
        total
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batch = self.batch as f64;
        let row = |f: &mut fmt::Formatter<'_>, packing: &str, cost: &PackingCost| {
            let seconds = self.goal.nanoseconds(cost) as f64 / 1e9 / batch;
            writeln!(
                f,
                "  {packing:<26} {:>9.1} {:>9.1} {:>10.1} {:>7.1} {:>10.1} {:>9.2}",
                cost.bytes as f64 / batch / 1e3,
                cost.products as f64 / batch,
                cost.weight_transforms as f64 / batch,
                cost.inputs as f64 / batch,
                cost.responses as f64 / batch,
                seconds * 1e3,
            )
        };
        writeln!(
            f,
            "Packing of the linear layers for {:.0} Mbit/s, for each inference of a batch of {}; kB = 1000 bytes. The first of each source is used.",
            self.goal.bandwidth as f64 / 1e6,
            self.batch
        )?;
        writeln!(
            f,
            "  {:<26} {:>9} {:>9} {:>10} {:>7} {:>10} {:>9}",
            "images x channels x filters",
            "kB",
            "products",
            "transforms",
            "inputs",
            "responses",
            "ms"
        )?;
        for source in &self.sources {
            let spec = &source.spec;
            write!(
                f,
                "{}: reads {}x{}x{}",
                source.name, spec.channels, spec.height, spec.width
            )?;
            if !source.joined.is_empty() {
                write!(f, "; its response carries {} too", source.joined.join(", "))?;
            }
            writeln!(f)?;
            for ranked in &source.ranked {
                let choice = &ranked.choice;
                let filters: Vec<String> = choice.filters.iter().map(usize::to_string).collect();
                let packing = format!(
                    "{} x {} x {}",
                    choice.images,
                    choice.channels,
                    filters.join("/")
                );
                row(f, &packing, &ranked.cost)?;
            }
        }
        writeln!(f, "all sources")?;
        row(f, "", &self.total())
    }
}
