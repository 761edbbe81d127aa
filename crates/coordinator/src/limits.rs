//! How often an address, a node and an account may ask: token buckets (the generic cell rate
//! algorithm, as ITU-T I.371 has it), of which only those that are not full again are remembered.
//!
//! An address is limited in what it can do without proving who it is: to enrol, to be refused,
//! and to ask what is open to anyone. What a node or the operator asks is never counted against
//! an address, so that a stranger behind the same address as an honest node harms nobody. Who
//! proved to be a node is limited by node, and with all other nodes of its account, far above
//! what honest ones ask.
//!
//! Readiness and metrics have a limit of their own, so that no page takes them from the program
//! that polls them. `/healthz` has none: to answer it costs less than to refuse it, and a refusal
//! could make somebody start the coordinator anew.
//!
//! Behind a reverse proxy all machines have its address, and share what one address may do:
//! raise these limits there and limit at the proxy. Headers that tell the address beyond a
//! proxy are not read, because anyone can send them.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use opengpu_rounds::NodeId;
use serde::{Deserialize, Serialize};

use crate::connections::{HELD_BYTES, PLACE_BYTES};

/// Buckets that are remembered at a time: 65,536 of them take some megabytes.
const MOST_BUCKETS: usize = 1 << 16;
/// How often room is looked for when there are that many.
const SWEEP: Duration = Duration::from_secs(1);

/// How much of something at once, and how much in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// At once, after a pause.
    pub burst: NonZeroU32,
    /// In the long run.
    pub per_minute: NonZeroU32,
}

impl Rate {
    fn new(burst: u32, per_minute: u32) -> Self {
        Self {
            burst: at_least_one(burst),
            per_minute: at_least_one(per_minute),
        }
    }
}

/// The limits of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Enrolments of one address.
    pub enrolments: Rate,
    /// Refused requests of one address that prove nobody's identity.
    pub refusals: Rate,
    /// Requests of one address for what is open to anyone: pages, the API's description, the
    /// greeting of agents.
    pub open_requests: Rate,
    /// Requests of one node.
    pub requests: Rate,
    /// Requests of all nodes of one account together.
    pub account_requests: Rate,
    /// Open connections.
    pub connections: ConnectionSettings,
}

impl Default for LimitSettings {
    /// A classroom behind one address enrols at once, and looks at the live page of its run, which
    /// is about ten requests each; a node with eight devices asks less than 20 times a second, and
    /// one with a device about once: an account may have a thousand of those.
    fn default() -> Self {
        Self {
            enrolments: Rate::new(100, 60),
            refusals: Rate::new(300, 60),
            open_requests: Rate::new(2_000, 6_000),
            requests: Rate::new(2_000, 6_000),
            account_requests: Rate::new(20_000, 60_000),
            connections: ConnectionSettings::default(),
        }
    }
}

/// How many connections may be open, and for how long they may say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionSettings {
    /// In all.
    pub total: NonZeroU32,
    /// Of one address.
    pub per_address: NonZeroU32,
    /// Until the first request's head has come.
    pub head_seconds: NonZeroU32,
    /// Between an answer and the next request's head.
    pub idle_seconds: NonZeroU32,
}

impl Default for ConnectionSettings {
    /// An agent holds two connections, of which one rests most of the time and makes room where
    /// it must: some thousands of agents in all, 500 at least behind one address. A head fits in
    /// one packet, which a bad line sends again a few times within 15 s. Clients close what
    /// rests for 90 s (ours) or a minute (proxies); who closes first should be the client, or a
    /// request may be on its way into a connection that the server has just closed.
    fn default() -> Self {
        Self {
            total: at_least_one(8_192),
            per_address: at_least_one(1_024),
            head_seconds: at_least_one(15),
            idle_seconds: at_least_one(120),
        }
    }
}

impl ConnectionSettings {
    /// Most bytes that those who are connected can make the server hold, whatever they do;
    /// without the payloads of updates that it asked for.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.total.get()) * PLACE_BYTES + HELD_BYTES
    }
}

/// Zero would be a limit that nothing passes, which nobody asks for.
fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// Too often; after this long it may do again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOften(pub Duration);

impl TooOften {
    /// For the header `Retry-After`: whole seconds, at least one.
    pub fn seconds(self) -> u64 {
        self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0).max(u64::from(self.0.is_zero()))
    }
}

/// What was asked lately.
pub struct Limits {
    enrolments: Buckets<IpAddr>,
    refusals: Buckets<IpAddr>,
    open_requests: Buckets<IpAddr>,
    probes: Buckets<IpAddr>,
    requests: Buckets<NodeId>,
    account_requests: Buckets<u64>,
    claims: Buckets<()>,
    appeals: Buckets<NodeId>,
}

impl Limits {
    /// Nobody has asked yet.
    pub fn new(settings: &LimitSettings) -> Self {
        Self {
            enrolments: Buckets::new(settings.enrolments, MOST_BUCKETS, NOBODY),
            refusals: Buckets::new(settings.refusals, MOST_BUCKETS, NOBODY),
            open_requests: Buckets::new(settings.open_requests, MOST_BUCKETS, NOBODY),
            // Ten polls a second: several programs at one address that ask each second or so.
            probes: Buckets::new(Rate::new(300, 600), MOST_BUCKETS, NOBODY),
            requests: Buckets::new(settings.requests, MOST_BUCKETS, NodeId(0)),
            account_requests: Buckets::new(settings.account_requests, MOST_BUCKETS, 0),
            // Ten guesses a minute at 2^40 codes that live for 15 minutes are no danger.
            claims: Buckets::new(Rate::new(30, 10), 1, ()),
            // Each is read by a person, and there is one for each change.
            appeals: Buckets::new(Rate::new(5, 1), MOST_BUCKETS, NodeId(0)),
        }
    }

    /// Somebody at this address enrols.
    pub fn enrolment(&self, address: IpAddr) -> Result<(), TooOften> {
        self.enrolments.take(site(address))
    }

    /// Somebody at this address was refused.
    pub fn refusal(&self, address: IpAddr) -> Result<(), TooOften> {
        self.refusals.take(site(address))
    }

    /// Somebody at this address asks what is open to anyone.
    pub fn open_request(&self, address: IpAddr) -> Result<(), TooOften> {
        self.open_requests.take(site(address))
    }

    /// A program at this address polls readiness or metrics.
    pub fn probe(&self, address: IpAddr) -> Result<(), TooOften> {
        self.probes.take(site(address))
    }

    /// A node asked.
    pub fn request(&self, node: NodeId) -> Result<(), TooOften> {
        self.requests.take(node)
    }

    /// A node of this account asked.
    pub fn account_request(&self, account: u64) -> Result<(), TooOften> {
        self.account_requests.take(account)
    }

    /// The owner of a node appeals.
    pub fn appeal(&self, node: NodeId) -> Result<(), TooOften> {
        self.appeals.take(node)
    }

    /// Somebody enters a code to claim a node with.
    pub fn claim(&self) -> Result<(), TooOften> {
        self.claims.take(())
    }
}

/// Stands for all that there is no room to tell apart.
const NOBODY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What belongs to one owner: an IPv4 address, or the /64 that an IPv6 customer gets at least
/// and can take addresses from at will.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// A bucket for each key, of which no more than a number are remembered.
struct Buckets<K: std::hash::Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    most: usize,
    /// The key of those that there is no room for.
    rest: K,
    swept: Mutex<Option<Instant>>,
}

impl<K: std::hash::Hash + Eq + Clone> Buckets<K> {
    fn new(rate: Rate, most: usize, rest: K) -> Self {
        let per_minute = Quota::per_minute(rate.per_minute);
        Self {
            limiter: RateLimiter::keyed(per_minute.allow_burst(rate.burst)),
            most,
            rest,
            swept: Mutex::new(None),
        }
    }

    fn take(&self, key: K) -> Result<(), TooOften> {
        let key = if self.is_full() { &self.rest } else { &key };
        self.limiter
            .check_key(key)
            .map_err(|until| TooOften(until.wait_time_from(DefaultClock::default().now())))
    }

    /// Whether there is no room for another bucket, after those that are full again were
    /// forgotten. Looking takes time in proportion to their number, so it is done seldom.
    fn is_full(&self) -> bool {
        if self.limiter.len() < self.most {
            return false;
        }
        // Whoever finds it taken is content with what the other one finds.
        if let Ok(mut swept) = self.swept.try_lock()
            && swept.is_none_or(|at| at.elapsed() >= SWEEP)
        {
            self.limiter.retain_recent();
            *swept = Some(Instant::now());
        }
        self.limiter.len() >= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_it_is_told_how_long_to_wait() {
        let buckets = Buckets::new(Rate::new(3, 2), 10, 0);
        for _ in 0..3 {
            assert_eq!(buckets.take(1), Ok(()));
        }
        let wait = buckets.take(1).map_err(TooOften::seconds);
        assert!(matches!(wait, Err(29..=30)), "{wait:?}");
        assert_eq!(buckets.take(2), Ok(()), "another one has its own bucket");
    }

    #[test]
    fn however_many_ask_no_more_buckets_are_remembered() {
        let buckets = Buckets::new(Rate::new(1, 1), 100, 0);
        let passed = (1..10_000).filter(|key| buckets.take(*key).is_ok()).count();
        assert!(buckets.limiter.len() <= 101, "{}", buckets.limiter.len());
        // All beyond share one bucket.
        assert_eq!(passed, 101);
    }

    #[test]
    fn buckets_that_are_full_again_make_room() {
        let buckets = Buckets::new(Rate::new(1, 60_000), 10, 0);
        for key in 1..=10 {
            assert_eq!(buckets.take(key), Ok(()));
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(buckets.take(11), Ok(()));
        assert!(buckets.limiter.len() <= 2, "{}", buckets.limiter.len());
    }

    #[test]
    fn one_customer_is_one_site_whichever_of_its_addresses_it_takes() {
        let parsed = |text: &str| text.parse().map(site);
        assert_eq!(parsed("2001:db8:1:2::1"), parsed("2001:db8:1:2:ffff::9"));
        assert_ne!(parsed("2001:db8:1:2::1"), parsed("2001:db8:1:3::1"));
        assert_ne!(parsed("192.0.2.1"), parsed("192.0.2.2"));
        assert_eq!(parsed("::ffff:192.0.2.1"), parsed("192.0.2.1"));
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_upwards() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (60_000, 60)] {
            assert_eq!(
                TooOften(Duration::from_millis(milliseconds)).seconds(),
                seconds
            );
        }
    }
}
