//! What a row came to, as a line of the table and against its limit.

use anyhow::{Result, bail};
use opengpu_bench::{Audited, Counted, Figures, Known, word};

use crate::grid::{Limit, Row};

/// What a row came to, as the mean of its seeds.
pub struct Outcome {
    seeds: usize,
    nats: f64,
    /// Loss above that of the same fleet without attackers, as a part of it.
    above: f64,
    /// The same against the honest workers alone, where they were trained.
    above_alone: Option<f64>,
    /// Perplexity in parts of the clean run's.
    perplexity: f64,
    counted: Counted,
    audited: Option<Found>,
}

/// What audits found over all seeds.
struct Found {
    hostile: u64,
    caught: u64,
    hostile_passed: u64,
    honest_caught: u64,
    /// Means over those caught.
    until_caught: f64,
    after_first_audit: f64,
    longest_after_first_audit: u64,
}

impl Outcome {
    /// None if nothing is known of the row.
    pub fn of(row: &Row, known: &Known) -> Option<Self> {
        let figures = row.figures(known);
        let nats = mean(figures.iter().map(|(own, ..)| own.nats))?;
        // Only seeds of which both are known are compared.
        let clean = |part: fn(f64, f64) -> f64| {
            let pairs = figures.iter();
            mean(pairs.filter_map(|(own, clean, _)| Some(part(own.nats, (*clean)?.nats))))
        };
        let alone = figures.iter();
        let alone = alone.filter_map(|(own, _, alone)| Some(own.nats / (*alone)?.nats - 1.0));
        let counted = figures.iter().filter_map(|(own, ..)| own.counted);
        let counted: Vec<Counted> = counted.collect();
        let part = |part: fn(&Counted) -> f64| mean(counted.iter().map(part)).unwrap_or_default();
        let own: Vec<Figures> = figures.iter().map(|(own, ..)| *own).collect();
        Some(Self {
            seeds: figures.len(),
            nats,
            above: clean(|own, clean| own / clean - 1.0).unwrap_or(f64::NAN),
            above_alone: mean(alone),
            perplexity: clean(|own, clean| (own - clean).exp()).unwrap_or(f64::NAN),
            counted: Counted {
                honest: part(|counted| counted.honest),
                wronged: part(|counted| counted.wronged),
                hostile: part(|counted| counted.hostile),
                refused: counted.iter().map(|counted| counted.refused).sum(),
            },
            audited: Found::of(&own),
        })
    }

    /// Says what is not as it must be.
    pub fn check(&self, row: &Row, limit: &Limit) -> Result<()> {
        let parts = [
            (
                "its loss is above the clean run's by",
                self.above,
                Some(limit.above),
            ),
            (
                "hostile updates counted",
                self.counted.hostile,
                limit.hostile,
            ),
            (
                "honest updates that counted less than half are",
                self.counted.wronged,
                limit.wronged,
            ),
        ];
        for (what, found, most) in parts {
            let Some(most) = most else { continue };
            if found.is_nan() || found > most {
                bail!(
                    "{}: {what} {:.1} %, at most {:.1} % is allowed",
                    row.name(),
                    found * 100.0,
                    most * 100.0
                );
            }
        }
        let (Some(found), Some(most)) = (&self.audited, limit.after_first_audit) else {
            return Ok(());
        };
        if found.honest_caught + found.hostile_passed > 0 {
            bail!(
                "{}: {} honest workers are in quarantine, and {} audits of hostile updates passed; none is allowed",
                row.name(),
                found.honest_caught,
                found.hostile_passed
            );
        }
        if found.after_first_audit > most {
            bail!(
                "{}: attackers were in quarantine {:.1} rounds after their first audit, {most} are allowed",
                row.name(),
                found.after_first_audit
            );
        }
        Ok(())
    }
}

impl Found {
    fn of(figures: &[Figures]) -> Option<Self> {
        let all: Vec<Audited> = figures.iter().filter_map(|one| one.audited).collect();
        if all.is_empty() {
            return None;
        }
        let sum = |part: fn(&Audited) -> u64| all.iter().map(part).sum::<u64>();
        let caught = sum(|one| one.caught);
        let over_caught = |part: fn(&Audited) -> f64| {
            let sums = all.iter().map(|one| part(one) * one.caught as f64);
            sums.sum::<f64>() / caught.max(1) as f64
        };
        let longest = all.iter().map(|one| one.longest_after_first_audit);
        Some(Self {
            hostile: sum(|one| one.hostile),
            caught,
            hostile_passed: sum(|one| one.hostile_passed),
            honest_caught: sum(|one| one.honest_caught),
            until_caught: over_caught(|one| one.until_caught),
            after_first_audit: over_caught(|one| one.after_first_audit),
            longest_after_first_audit: longest.max().unwrap_or_default(),
        })
    }
}

/// Prints the table.
pub fn print(rows: &[(&Row, Outcome)]) {
    println!(
        "\n| workers | rule | checks | hostile | attack | seeds | nats/token | to clean | to honest alone | perplexity to clean | honest counted | under half | hostile counted | caught | rounds until then | after the first audit, mean (most) | honest caught |"
    );
    println!("|{}", "---|".repeat(17));
    for (row, outcome) in rows {
        let attack = row.hostile.map(|hostile| word(&hostile.attack));
        let hostile = row.hostile.is_some();
        let dash = || "–".to_owned();
        let found = outcome.audited.as_ref();
        let caught = found.filter(|_| hostile);
        let some_caught = caught.filter(|found| found.caught > 0);
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.4} | {:+.2} % | {} | {:.3} | {:.2} | {:.2} % | {} | {} | {} | {} | {} |",
            row.workers,
            row.rule(),
            row.checks(),
            row.hostile.map_or(0, |hostile| hostile.workers),
            attack.unwrap_or_else(dash),
            outcome.seeds,
            outcome.nats,
            outcome.above * 100.0,
            outcome
                .above_alone
                .map_or_else(dash, |above| format!("{:+.2} %", above * 100.0)),
            outcome.perplexity,
            outcome.counted.honest,
            outcome.counted.wronged * 100.0,
            match hostile {
                true if outcome.counted.refused > 0 => format!(
                    "{:.2} ({} refused)",
                    outcome.counted.hostile, outcome.counted.refused
                ),
                true => format!("{:.2}", outcome.counted.hostile),
                false => dash(),
            },
            caught.map_or_else(dash, |found| format!(
                "{} of {}",
                found.caught, found.hostile
            )),
            some_caught.map_or_else(dash, |found| format!("{:.1}", found.until_caught)),
            some_caught.map_or_else(dash, |found| format!(
                "{:.1} ({})",
                found.after_first_audit, found.longest_after_first_audit
            )),
            found.map_or_else(dash, |found| found.honest_caught.to_string()),
        );
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
