//! A hostile network against a real coordinator, and an honest node that goes on working
//! meanwhile.
//!
//! One process attacks from three addresses of this machine, at a rate that leaves the
//! processor to both sides: what is looked for is what one message can do, not what a flood
//! can. Every endpoint of the coordinator's table and every page is attacked, so that one that
//! is added later is, too. Each request says what it must get: a refusal, a closed connection or
//! nothing; or, where an honest client could send the same, anything but a server's fault. Reads
//! `/proc`, so it needs Linux.

mod attacker;
mod bodies;
mod held;
mod honest;
mod http2;
mod lies;
mod secrets;
mod signatures;
mod tally;
mod targets;
mod updates;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opengpu_coordinator::{ConnectionSettings, LimitSettings};
use tokio::time::Instant;

use crate::installation::Installation;
use attacker::Attacker;
use honest::Honest;

pub use tally::Tally;

/// Most memory that a coordinator with these settings and a small model may ever hold: 100 MB for
/// itself (docs/fleet.md), 4 MiB for the payloads of the attacker's assignment, and what
/// connections can make it hold.
pub fn memory_bound(settings: &ConnectionSettings) -> u64 {
    100_000_000 + (4 << 20) + settings.memory_bytes()
}

/// How hostile a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bodies longer than allowed, declared or endless.
    Sizes,
    /// Lengths that contradict each other or the body.
    Lengths,
    /// Compressed bombs, and what is no JSON or too much of it.
    Contents,
    /// Signatures forged, replayed, of another node; tokens that are none.
    Signatures,
    /// Updates, payloads, commitments, openings and answers to audits that are none, from nodes
    /// that are asked for them.
    Updates,
    /// Heads and bodies a byte at a time, and answers that nobody reads.
    Slow,
    /// Thousands of connections over which no request ever comes.
    HalfOpen,
    /// HTTP/2: streams taken back, heads without an end, pings.
    Http2,
}

impl Kind {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 8] = [
        Self::Sizes,
        Self::Lengths,
        Self::Contents,
        Self::Signatures,
        Self::Updates,
        Self::Slow,
        Self::HalfOpen,
        Self::Http2,
    ];

    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sizes => "oversized and endless bodies",
            Self::Lengths => "wrong lengths",
            Self::Contents => "bombs, broken and deep JSON",
            Self::Signatures => "forged and replayed signatures",
            Self::Updates => "broken updates, openings and audits",
            Self::Slow => "slow heads, bodies and readers",
            Self::HalfOpen => "3000 half-open connections",
            Self::Http2 => "HTTP/2 resets and endless heads",
        }
    }

    /// Attacks at least until then, and everything at least once.
    async fn attack(self, attacker: Arc<Attacker>, until: Instant) -> Result<()> {
        loop {
            match self {
                Self::Sizes => attacker.send_to_each(&bodies::sizes()).await,
                Self::Lengths => attacker.send_to_each(&bodies::lengths()).await,
                Self::Contents => attacker.send_to_each(&bodies::contents()).await,
                Self::Signatures => signatures::attack(&attacker).await,
                Self::Updates => updates::attack(&attacker, until).await?,
                Self::Slow => held::slow(&attacker, until).await,
                Self::HalfOpen => held::half_open(&attacker, until).await,
                Self::Http2 => http2::attack(&attacker, until).await,
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

/// What an attack did to an honest node.
#[derive(Clone, Debug)]
pub struct Row {
    /// The attack.
    pub kind: Kind,
    /// What became of its requests.
    pub tally: Tally,
    /// Median time of the honest node's requests while it lasted.
    pub median: Duration,
    /// Honest requests, all of which were answered.
    pub answered: usize,
}

/// What came of all attacks.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Median time of the honest node's requests before.
    pub usual: Duration,
    /// One for each attack.
    pub rows: Vec<Row>,
    /// Most memory that the coordinator held.
    pub peak_bytes: u64,
    /// Most that it held before the attacks.
    pub usual_peak_bytes: u64,
    /// Secrets that were found in its logs, by name.
    pub told: Vec<String>,
}

impl Outcome {
    /// Longest median of a row over the usual one, with the row's name.
    pub fn slowest(&self) -> Option<(f64, &'static str)> {
        let rows = self.rows.iter();
        let slowest = rows.max_by(|one, other| one.median.cmp(&other.median))?;
        let ratio = slowest.median.as_secs_f64() / self.usual.as_secs_f64();
        Some((ratio, slowest.kind.name()))
    }
}

/// Starts a coordinator with a run, an honest node and an attacker, and tries all attacks, each
/// for at least so long. Fails as soon as one honest request does.
pub async fn attack_all(each: Duration, connections: ConnectionSettings) -> Result<Outcome> {
    allow_many_files();
    let limits = LimitSettings {
        connections,
        ..LimitSettings::default()
    };
    let config = toml::to_string(&BTreeMap::from([("limits", limits)]))?;
    let installation = Installation::start_with(&config).await?;
    installation.add_corpus(512)?;
    let run = installation.submit(RUN)?.run;
    let mut honest = Honest::join(&installation, run).await?;
    let attacker = Arc::new(Attacker::join(&installation, run, &honest).await?);

    let until = Instant::now() + each;
    let usual = honest.ask_while(|| Instant::now() < until).await?;
    let usual_peak_bytes = installation.usage()?.peak_bytes;
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        let attack = tokio::spawn(kind.attack(Arc::clone(&attacker), Instant::now() + each));
        let times = honest.ask_while(|| !attack.is_finished()).await;
        let times =
            times.with_context(|| format!("an honest request failed during: {}", kind.name()))?;
        attack.await?.with_context(|| kind.name())?;
        rows.push(Row {
            kind,
            tally: attacker.take_tally(),
            median: median(&times)?,
            answered: times.len(),
        });
    }
    honest.still_hears_its_plan().await?;
    let secrets = secrets::of(&installation, &honest, &attacker)?;
    Ok(Outcome {
        usual: median(&usual)?,
        rows,
        peak_bytes: installation.usage()?.peak_bytes,
        usual_peak_bytes,
        told: secrets::told(&installation.logs()?, &secrets)?,
    })
}

/// A run that audits, whose rounds are longer than any attack: nothing but the attack happens.
const RUN: &str = "name = \"besieged\"\ndataset = \"corpus\"\npreset = \"pico\"\nseed = 1\n\
    evaluate_every = 0\n[round]\nrounds = 2\nmin_workers = 1\nmax_workers = 8\nquorum = 1\n\
    duration_ms = 1800000\ngrace_ms = 1800000\nforming_ms = 0\nmax_blocks = 40\n\
    silence_ms = 30000\n[inner]\nstate = \"reset\"\n";

fn median(times: &[Duration]) -> Result<Duration> {
    ensure!(!times.is_empty(), "no honest request was sent");
    let mut times = times.to_vec();
    times.sort();
    Ok(times[times.len() / 2])
}

/// As many open files as this process may have: each held connection is one.
fn allow_many_files() {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel fills the struct that it is given, and then reads it.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
    }
}
