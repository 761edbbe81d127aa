//! What a run waits for, in sentences, and when it should be looked at again.
//!
//! A waiting system that can't say why is the first thing its users complain about, so every
//! sentence names the number that is missing.

use crate::input::is_trusted;
use crate::{Fleet, Phase, Regard, Run, WorkerId};

impl Run {
    /// Why the run is where it is and what it waits for: one sentence for a person.
    pub fn explanation(&self, now_ms: u64, fleet: &Fleet) -> String {
        let now_ms = now_ms.max(self.last_event_ms);
        match self.phase {
            Phase::Draft => "waits to be started".into(),
            Phase::Forming => self.explain_forming(now_ms, fleet),
            Phase::Training | Phase::Collecting => self.explain_round(now_ms, fleet),
            Phase::Merging => {
                let updates = self.closing.as_ref().map_or(0, |round| round.updates.len());
                format!(
                    "merges {} of round {}: {}",
                    count(updates, "update"),
                    self.round(),
                    self.phase_reason
                )
            }
            Phase::Paused => format!("paused: {}", self.phase_reason),
            Phase::Finished => format!("finished: {}", self.phase_reason),
            Phase::Failed => format!(
                "failed: {}; resume it to try again, or roll it back",
                self.phase_reason
            ),
        }
    }

    fn explain_forming(&self, now_ms: u64, fleet: &Fleet) -> String {
        let ready = self.ready(now_ms, fleet).len();
        let needed = self.settings.min_workers.max(1) as usize;
        let round = self.next_round;
        if ready < needed {
            let present = self
                .members
                .values()
                .filter(|member| member.present)
                .count();
            return format!(
                "round {round} waits for {} ({ready} of {needed} ready with revision {}, {present} joined)",
                count(needed - ready, "more worker"),
                self.revision,
            );
        }
        let awaited = self.awaited(now_ms, fleet).len();
        let left = self.opens_ms.map_or(self.settings.forming_ms, |opens| {
            opens.saturating_sub(now_ms)
        });
        let why = match awaited {
            0 => "for others to join".into(),
            _ => format!(
                "for {} to fetch revision {}",
                count(awaited, "worker"),
                self.revision
            ),
        };
        format!(
            "round {round} has {} ready, {needed} needed; it waits {} {why}",
            count(ready, "worker"),
            seconds(left)
        )
    }

    fn explain_round(&self, now_ms: u64, fleet: &Fleet) -> String {
        let Some(open) = &self.current else {
            return self.phase_reason.clone();
        };
        let outstanding = self.outstanding(open.round).count();
        let silent = self.outstanding(open.round);
        let silent = silent
            .filter(|worker| self.is_silent(*worker, now_ms, fleet))
            .count();
        let quorum = self.quorum();
        let waiting = self.mergeable();
        let held = self.waiting.len() - waiting;
        let mut missing = count(outstanding, "update");
        if silent > 0 {
            missing += &format!(" ({silent} of them from workers not heard of)");
        }
        if held > 0 {
            missing += &format!(", {} for an audit", waits(held));
        }
        let doing = match open.grace_ends_ms {
            None => format!(
                "trains for {} more",
                seconds(open.deadline_ms.saturating_sub(now_ms))
            ),
            Some(ends) => format!(
                "waits {} more for updates",
                seconds(ends.saturating_sub(now_ms))
            ),
        };
        format!(
            "round {} {doing}; {missing} outstanding, {waiting} in, {quorum} needed for a merge",
            open.round
        )
    }

    /// When the next [`crate::Input::Tick`] could decide something, if no input comes and
    /// nothing is heard of any worker until then. None: only an input can change anything.
    /// After a tick at `now_ms` was decided and folded, the answer lies after `now_ms`, so a
    /// loop that sleeps until then does not spin.
    pub fn next_wake_ms(&self, now_ms: u64, fleet: &Fleet) -> Option<u64> {
        let now_ms = now_ms.max(self.last_event_ms);
        let for_round = self.round_wakes_ms(now_ms, fleet);
        let alive = matches!(
            self.phase,
            Phase::Forming | Phase::Training | Phase::Collecting | Phase::Finished
        );
        let audits = self.audits.values().filter(|_| alive);
        let for_audits = audits.filter_map(|audit| audit.given_up_ms(&self.settings));
        // Whoever owes an update becomes ready by time alone.
        let forming = self.settings.audit.enabled && self.phase == Phase::Forming;
        let leases = self.leases.values().filter(|_| forming);
        let for_owing = leases.map(|lease| self.owed_until_ms(lease));
        let for_owing = for_owing.filter(|until| *until > now_ms);
        for_round
            .into_iter()
            .chain(for_audits)
            .chain(for_owing)
            .min()
    }

    fn round_wakes_ms(&self, now_ms: u64, fleet: &Fleet) -> Option<u64> {
        match self.phase {
            Phase::Forming => {
                let needed = self.settings.min_workers.max(1) as usize;
                if self.ready(now_ms, fleet).len() < needed {
                    return None;
                }
                let Some(opens_ms) = self.opens_ms else {
                    return Some(now_ms);
                };
                let awaited = self.awaited(now_ms, fleet);
                if self.next_round == 0 {
                    return Some(opens_ms);
                }
                // With all places taken only the known are waited for.
                let full = self.ready(now_ms, fleet).len() >= self.settings.max_workers as usize;
                let trusted = |worker: &WorkerId| is_trusted(fleet, *worker);
                let known: Vec<_> = awaited.iter().copied().filter(trusted).collect();
                let awaited = if full && !known.is_empty() {
                    known
                } else {
                    awaited
                };
                Some(opens_ms.min(self.all_silent_from(awaited.into_iter(), fleet)))
            }
            Phase::Training | Phase::Collecting => {
                let open = self.current.as_ref()?;
                let ends = open.grace_ends_ms.unwrap_or(open.deadline_ms);
                if self.mergeable() < self.quorum() {
                    return Some(ends);
                }
                Some(ends.min(self.all_silent_from(self.waited_for(open.round, fleet), fleet)))
            }
            _ => None,
        }
    }

    /// From when on all of `workers` count as silent.
    fn all_silent_from(&self, workers: impl Iterator<Item = WorkerId>, fleet: &Fleet) -> u64 {
        let silence = self.settings.silence_ms;
        let each = workers.filter_map(|worker| {
            let sight = fleet.get(&worker)?;
            Some(
                sight
                    .last_heard_ms
                    .saturating_add(silence)
                    .saturating_add(1),
            )
        });
        each.max().unwrap_or(0)
    }
}

impl Regard {
    /// Why the update counted less than its weight, in a word for programs. None if it
    /// counted in full.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            _ if self.counted > 0.995 => None,
            Self { twin: Some(_), .. } => Some("copy"),
            _ if self.falls_short() => Some("disagrees"),
            Self {
                counted: 0.0,
                agreement: None,
                ..
            } => Some("says_nothing"),
            _ => Some("far_from_others"),
        }
    }

    /// The same in a sentence for the person whose it is.
    pub fn explanation(&self) -> Option<String> {
        let part = format!("it counted {:.0} % of its weight", self.counted * 100.0);
        let why = match (self.code()?, self.twin) {
            (_, Some(twin)) => {
                format!("it is nearly a copy of update {twin}, and copies count together as one")
            }
            ("disagrees", _) => self.what_disagrees(),
            ("says_nothing", _) => "it changes no weight".into(),
            _ => "it lies farther from the others than most".into(),
        };
        Some(format!("{part}: {why}"))
    }

    /// Whether the update itself or the record of its worker is below what counts in full.
    fn falls_short(&self) -> bool {
        let Some(needed) = self.needed else {
            return false;
        };
        [self.agreement, self.record]
            .into_iter()
            .flatten()
            .any(|shown| shown < needed)
    }

    /// Names both numbers where the update agrees less than its worker does on the whole: in
    /// older logs the record alone decided, today the lower of the two does.
    fn what_disagrees(&self) -> String {
        let needed = self.needed.unwrap_or_default();
        match (self.record, self.agreement) {
            (Some(record), Some(agreement)) if agreement < record => format!(
                "this update's agreement with most others is {agreement:.3} and its worker's on the whole {record:.3}, from {needed:.3} on an update counts in full"
            ),
            (record, agreement) => format!(
                "this worker's agreement with most others is {:.3}, from {needed:.3} on an update counts in full",
                record.or(agreement).unwrap_or_default()
            ),
        }
    }
}

/// "1 waits", "3 wait".
fn waits(number: usize) -> String {
    match number {
        1 => "1 waits".into(),
        _ => format!("{number} wait"),
    }
}

/// "1 update", "3 updates".
pub(crate) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// "850 ms", "3.5 s", "61 s".
pub(crate) fn seconds(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} s", ms / 1000),
    }
}
