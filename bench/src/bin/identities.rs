//! What can somebody do who comes under many names?
//!
//! Eight known workers train, and k fresh identities join them, which do as well as they can:
//! honest work until they are known, nothing but lies under a new name each time, or nothing
//! at all with the work that they took; at last where a round has fewer places than they have
//! names. Prints the largest part of a merge's weight that identities on probation ever had
//! together, and when rounds close, beside the same run without them; fails if they have more
//! than their part, hold up or stop the run, or take the work of a known worker.
//!
//! Nothing is trained here, so there is no loss for which a run could go back. That they can't
//! make it go back again and again is for the tests of rollbacks (`docs/attacks.md`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use opengpu_bench::untrained::Untrained;
use opengpu_protocol::TrustSettings;
use opengpu_rounds::{
    AssignmentId, AuditOutcome, AuditRules, NEWCOMERS_PART, PendingMerge, Phase, RoundSettings,
    WEIGHING, WorkerId, weights,
};

/// Fresh identities against a run
#[derive(Parser)]
struct Arguments {
    /// How many of them
    #[arg(long, default_values_t = [1, 8, 64, 512])]
    identities: Vec<u64>,
    /// Rounds of each run
    #[arg(long, default_value_t = 12)]
    rounds: u64,
    /// Places of a round in the last rows
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(8..))]
    places: u32,
    /// Decides which updates of known workers are audited
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const KNOWN: u64 = 8;
/// When a round's audits of earlier updates end, newcomers send, and known workers begin to,
/// one a second; in seconds from its opening.
const AUDITS_END: u64 = 30;
const NEWCOMERS_SEND: u64 = 35;
const KNOWN_SEND: u64 = 40;

/// What identities do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Conduct {
    /// Honest work until they are known, then lies.
    WorkThenTurn,
    /// Lies; who is found comes again under a new name.
    Lie,
    /// They take work, report that they are there, and send nothing.
    SendNothing,
}

/// What a run came to.
#[derive(Default)]
struct Story {
    /// Largest part of a merge's weight of those on probation.
    newcomers: f64,
    /// The same of all identities, also of those that passed their probation.
    identities: f64,
    /// Seconds that rounds were open, one for each.
    open_seconds: Vec<u64>,
    /// How often a known worker had no work in a round, and no other known one had it.
    left_without: u64,
    names: u64,
}

const CONDUCTS: [Conduct; 3] = [Conduct::WorkThenTurn, Conduct::Lie, Conduct::SendNothing];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let plenty = RoundSettings::default().max_workers;
    let alone = story(&arguments, 0, plenty, Conduct::Lie)?;
    println!(
        "{KNOWN} known workers, {} rounds, which close after at most {} s without others\n",
        arguments.rounds,
        longest(&alone)
    );
    println!(
        "| identities | places | conduct | names used | largest share on probation | with those past it | longest round (s) | known left without work |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let most = arguments.identities.iter().max();
    let tight = most.map(|identities| (*identities, arguments.places));
    let rows = arguments.identities.iter();
    let rows = rows.map(|identities| (*identities, plenty)).chain(tight);
    let mut wrong = Vec::new();
    for (identities, places) in rows {
        for conduct in CONDUCTS {
            let story = story(&arguments, identities, places, conduct)?;
            println!(
                "| {identities} | {places} | {conduct:?} | {} | {:.3} | {:.3} | {} | {} |",
                story.names,
                story.newcomers,
                story.identities,
                longest(&story),
                story.left_without
            );
            let who = format!("{identities} newcomers ({conduct:?}) at {places} places");
            wrong.extend(story.wrongs(&alone).map(|wrong| format!("{who} {wrong}")));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn longest(story: &Story) -> u64 {
    story.open_seconds.iter().copied().max().unwrap_or_default()
}

impl Story {
    /// What must not have happened.
    fn wrongs(&self, alone: &Self) -> impl Iterator<Item = String> {
        // Weights are float32.
        let heavy = (self.newcomers > NEWCOMERS_PART + 1e-6).then(|| {
            format!(
                "had {:.3} of a merge's weight, {NEWCOMERS_PART} is allowed",
                self.newcomers
            )
        });
        let late = self.open_seconds.iter().zip(&alone.open_seconds);
        let late = late.filter(|(with, without)| with > without).count();
        let late = (late > 0).then(|| format!("held up {late} rounds"));
        let left = self.left_without;
        let left = (left > 0).then(|| format!("took the work of known workers {left} times"));
        heavy.into_iter().chain(late).chain(left)
    }
}

/// The state of a run with identities.
struct Fleet {
    fleet: Untrained,
    conduct: Conduct,
    next_name: u64,
    /// Audits that each identity passed.
    passed: BTreeMap<WorkerId, u32>,
    /// Audits that go on, with the round they began in.
    audits: Vec<(AssignmentId, WorkerId, u64)>,
    story: Story,
}

fn story(arguments: &Arguments, identities: u64, places: u32, conduct: Conduct) -> Result<Story> {
    let settings = RoundSettings {
        rounds: arguments.rounds,
        max_workers: places,
        blocks_per_epoch: 1_000_000,
        forming_ms: 0,
        audit: AuditRules {
            enabled: true,
            rate: TrustSettings::default().audit_rate,
        },
        weighing: WEIGHING,
        ..RoundSettings::default()
    };
    let mut fleet = Fleet {
        fleet: Untrained::start(settings, arguments.seed)?,
        conduct,
        next_name: 1,
        passed: BTreeMap::new(),
        audits: Vec::new(),
        story: Story::default(),
    };
    for _ in 0..KNOWN + identities {
        fleet.join()?;
    }
    fleet.see()?;
    for round in 0..arguments.rounds {
        fleet.round(round)?;
    }
    let run = &fleet.fleet.run;
    ensure!(
        run.phase() == Phase::Finished,
        "the run is {} at revision {}",
        run.phase(),
        run.revision()
    );
    let abandoned = run.totals().abandoned_rounds;
    ensure!(abandoned == 0, "{abandoned} rounds were abandoned");
    fleet.story.names = fleet.next_name - 1 - KNOWN;
    Ok(fleet.story)
}

impl Fleet {
    fn round(&mut self, round: u64) -> Result<()> {
        let opened = self.fleet.clock;
        self.look_who_has_work();
        let settings = self.fleet.run.settings();
        let most = (settings.duration_ms + settings.grace_ms) / 1000;
        for second in 1..=most {
            self.fleet.clock = opened + 1000 * second;
            self.see()?;
            if second == AUDITS_END {
                self.end_audits(round)?;
            }
            for worker in self.senders(second) {
                if let Some(audit) = self.fleet.send(worker)? {
                    self.audits.push((audit, worker, round));
                }
            }
            let Some(merged) = self.fleet.merge()? else {
                continue;
            };
            self.weigh(&merged);
            self.story.open_seconds.push(second);
            return self.see();
        }
        bail!("round {round} did not close within {most} s")
    }

    /// A round was opened just now. Identities that passed their probation are known, and take
    /// turns with the others.
    fn look_who_has_work(&mut self) {
        let at_work = self.fleet.at_work();
        let (known, others): (Vec<_>, Vec<_>) =
            at_work.into_iter().partition(|worker| worker.0 <= KNOWN);
        let in_turn = others.iter().filter(|worker| self.is_trusted(**worker));
        let idle = KNOWN - known.len() as u64;
        self.story.left_without += idle.saturating_sub(in_turn.count() as u64);
    }

    /// Who sends in this second.
    fn senders(&self, second: u64) -> Vec<WorkerId> {
        let at_work: BTreeSet<WorkerId> = self.fleet.at_work();
        let sends = |worker: &WorkerId| match worker.0 <= KNOWN {
            true => second == KNOWN_SEND + worker.0 - 1,
            false => second >= NEWCOMERS_SEND && self.conduct != Conduct::SendNothing,
        };
        at_work.into_iter().filter(sends).collect()
    }

    /// What was to be audited of earlier rounds is found.
    fn end_audits(&mut self, round: u64) -> Result<()> {
        let (ended, rest) = std::mem::take(&mut self.audits)
            .into_iter()
            .partition(|(_, _, began)| *began < round);
        self.audits = rest;
        let ended: Vec<(AssignmentId, WorkerId, u64)> = ended;
        for (assignment, worker, _) in ended {
            let honest = worker.0 <= KNOWN
                || (self.conduct == Conduct::WorkThenTurn && !self.is_trusted(worker));
            let outcome = match honest {
                true => AuditOutcome::Passed,
                false => AuditOutcome::Failed,
            };
            self.fleet.audited(assignment, outcome)?;
            if honest {
                if let Some(passed) = self.passed.get_mut(&worker) {
                    *passed += 1;
                }
            } else if self.passed.remove(&worker).is_some() {
                self.fleet.leave(worker)?;
                self.join()?;
            }
        }
        Ok(())
    }

    /// A worker joins under the next name; the first are known.
    fn join(&mut self) -> Result<()> {
        let worker = WorkerId(self.next_name);
        self.next_name += 1;
        self.passed.insert(worker, 0);
        self.fleet.join(worker)
    }

    fn is_trusted(&self, worker: WorkerId) -> bool {
        let needed = TrustSettings::default().probation_audits;
        let passed = self.passed.get(&worker);
        worker.0 <= KNOWN || passed.is_some_and(|passed| *passed >= needed)
    }

    fn see(&mut self) -> Result<()> {
        let trusted: BTreeSet<WorkerId> = self
            .passed
            .keys()
            .copied()
            .filter(|worker| self.is_trusted(*worker))
            .collect();
        self.fleet.see(|worker| trusted.contains(&worker))
    }

    fn weigh(&mut self, merged: &PendingMerge) {
        let weights = weights(WEIGHING, &merged.updates);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let (mut newcomers, mut identities) = (0.0, 0.0);
        for (update, weight) in merged.updates.iter().zip(&weights) {
            let share = f64::from(*weight) / total;
            if update.newcomer {
                newcomers += share;
            }
            if update.worker.0 > KNOWN {
                identities += share;
            }
        }
        self.story.newcomers = self.story.newcomers.max(newcomers);
        self.story.identities = self.story.identities.max(identities);
    }
}
