//! The two tables, and what must hold of them.

use crate::lies;
use crate::rate::Rate;

/// A worker and an auditor that are both honest.
pub struct Honest {
    pub worker: &'static str,
    pub auditor: &'static str,
    /// What the product allows the two.
    pub allowed: f64,
    /// Whether both made the same weights, to the last bit, with each seed.
    pub same_bytes: bool,
    /// Of each audit.
    pub distances: Vec<f64>,
}

/// Something that a worker sent instead of its progress.
pub struct Lie {
    name: String,
    is_everywhere: bool,
    /// By an auditor of its class, of another class in float32, and of any.
    pub seen: [Seen; 3],
}

/// By one kind of auditor.
pub struct Seen {
    allowed: f64,
    pub distances: Vec<f64>,
}

impl Lie {
    pub fn new(lie: &lies::Lie, allowed: [f64; 3]) -> Self {
        Self {
            name: lie.name.clone(),
            is_everywhere: lie.is_everywhere,
            seen: allowed.map(|allowed| Seen {
                allowed,
                distances: Vec::new(),
            }),
        }
    }
}

impl Seen {
    fn missed(&self) -> Rate {
        Rate::within(&self.distances, self.allowed)
    }
}

pub fn print_honest(rows: &[Honest]) {
    println!("| worker | auditor | same bytes | largest distance | allowed | false alarms |");
    println!("|---|---|---|---|---|---|");
    for row in rows {
        let (_, _, largest) = spread(&row.distances);
        let same = if row.same_bytes { "yes" } else { "no" };
        println!(
            "| {} | {} | {same} | {largest:.2e} | {:.4} | {} |",
            row.worker,
            row.auditor,
            row.allowed,
            Rate::above(&row.distances, row.allowed)
        );
    }
}

pub fn print_lies(rows: &[Lie]) {
    let Some(first) = rows.first() else {
        return;
    };
    let [same, float32, other] = first.seen.each_ref().map(|seen| seen.allowed);
    println!(
        "| sent | least | median | largest | missed in one class, at {same:.4} | both float32, {float32:.4} | else, {other:.4} |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        let (least, median, largest) = spread(&row.seen[0].distances);
        let [same, float32, other] = row.seen.each_ref().map(Seen::missed);
        println!(
            "| {} | {least:.2e} | {median:.2e} | {largest:.2e} | {same} | {float32} | {other} |",
            row.name
        );
    }
}

/// A sentence for each honest pair that was accused, and for each lie that no audit may miss and
/// one did.
pub fn complaints(honest: &[Honest], lies: &[Lie]) -> Vec<String> {
    let mut complaints = Vec::new();
    for row in honest {
        let alarms = Rate::above(&row.distances, row.allowed);
        if alarms.happened > 0 {
            complaints.push(format!(
                "{} audits of {} accused an honest worker ({}) whose auditor has {}: {} is allowed",
                alarms.happened, alarms.of, row.worker, row.auditor, row.allowed
            ));
        }
    }
    for row in lies.iter().filter(|row| row.is_everywhere) {
        for seen in &row.seen {
            let missed = seen.missed();
            if missed.happened > 0 {
                complaints.push(format!(
                    "{} audits of {} missed '{}' at a tolerance of {}",
                    missed.happened, missed.of, row.name, seen.allowed
                ));
            }
        }
    }
    complaints
}

/// Least, median and largest of at least one.
fn spread(distances: &[f64]) -> (f64, f64, f64) {
    let mut sorted = distances.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => (0.0, 0.0, 0.0),
        [least, .., largest] => (*least, sorted[sorted.len() / 2], *largest),
        [one] => (*one, *one, *one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn honest(distances: Vec<f64>) -> Honest {
        Honest {
            worker: "float32",
            auditor: "bfloat16",
            allowed: 0.1,
            same_bytes: false,
            distances,
        }
    }

    fn lie(is_everywhere: bool, distances: Vec<f64>) -> Lie {
        Lie {
            name: "a lie".into(),
            is_everywhere,
            seen: [0.01, 0.02, 0.1].map(|allowed| Seen {
                allowed,
                distances: distances.clone(),
            }),
        }
    }

    #[test]
    fn a_false_alarm_and_a_missed_lie_are_complained_of() {
        assert!(complaints(&[honest(vec![0.1])], &[lie(true, vec![0.5, 0.2])]).is_empty());
        assert_eq!(complaints(&[honest(vec![0.1, 0.2])], &[]).len(), 1);
        // Found at the two narrower tolerances.
        assert_eq!(complaints(&[], &[lie(true, vec![0.5, 0.05])]).len(), 1);
        assert_eq!(complaints(&[], &[lie(true, vec![0.0])]).len(), 3);
        assert!(complaints(&[], &[lie(false, vec![0.0])]).is_empty());
    }

    #[test]
    fn the_spread_is_of_sorted_distances() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(spread(&[4.0]), (4.0, 4.0, 4.0));
    }
}
