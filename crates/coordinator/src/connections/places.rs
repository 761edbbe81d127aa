//! The places that there are for connections: who gets one, who has to give theirs up, and when
//! a connection that says nothing is over. No socket and no clock: ids and times are arguments.
//!
//! When all places are taken, the newcomer gets that of the oldest connection over which nobody
//! has proved who they are; then that of the node that has rested longest. A proved request
//! under way (a directive stream, an upload, a download) is never cut. So half-open
//! connections, slow bodies and idle strangers make room for an honest node however many there
//! are, and it has as long to prove itself as it takes to open all places anew. What has proved
//! nothing is ordered by its age and not by its last request: else whoever asks again and again
//! would push out those who have just come.
//!
//! One address has a share of the places, and makes room among its own.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits::ConnectionSettings;

/// When a connection is over, if it says nothing until then; None while it is answered.
pub type Due = watch::Receiver<Option<Instant>>;

/// Returns when a connection is over.
pub async fn over(mut due: Due) {
    loop {
        let at = *due.borrow_and_update();
        let changed = match at {
            None => due.changed().await,
            Some(at) => match tokio::time::timeout_at(at, due.changed()).await {
                Ok(changed) => changed,
                Err(_elapsed) => return,
            },
        };
        // Whoever could say otherwise is gone: its place was given to another.
        if changed.is_err() {
            return;
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// For this address.
    Address,
    /// For anyone.
    Server,
}

impl Full {
    /// For the metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Address => "address_full",
            Self::Server => "server_full",
        }
    }
}

/// A connection that got a place.
#[derive(Debug)]
pub struct Entered {
    /// Its number.
    pub id: u64,
    /// When it is over.
    pub due: Due,
    /// Whether another had to go for it.
    pub made_room: bool,
}

/// What a connection is worth to whoever looks for room; the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Nobody proved who they are.
    Unproved,
    /// Somebody did, and asks nothing at the moment.
    Rests,
}

/// Worth, age within it, and the connection.
type Rank = (Worth, u64, u64);

struct Open {
    site: IpAddr,
    proved: bool,
    /// Requests that are not answered in full.
    under_way: u32,
    /// None: it is not closed for another.
    rank: Option<Rank>,
    due: watch::Sender<Option<Instant>>,
}

/// Who has a place.
pub struct Places {
    total: usize,
    per_address: usize,
    head: Duration,
    idle: Duration,
    /// Numbers that were given: to connections, and to rests.
    numbers: u64,
    open: HashMap<u64, Open>,
    of_site: HashMap<IpAddr, usize>,
    ranks: BTreeSet<Rank>,
    ranks_of_site: BTreeSet<(IpAddr, Rank)>,
}

impl Places {
    /// All free.
    pub fn new(settings: &ConnectionSettings) -> Self {
        let seconds = |seconds: std::num::NonZeroU32| Duration::from_secs(seconds.get().into());
        Self {
            total: settings.total.get() as usize,
            per_address: settings.per_address.get() as usize,
            head: seconds(settings.head_seconds),
            idle: seconds(settings.idle_seconds),
            numbers: 0,
            open: HashMap::new(),
            of_site: HashMap::new(),
            ranks: BTreeSet::new(),
            ranks_of_site: BTreeSet::new(),
        }
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a connection still has its place.
    pub fn holds(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    /// Gives a place to a new connection from `site`, or says why there is none.
    pub fn enter(&mut self, site: IpAddr, now: Instant) -> Result<Entered, Full> {
        let least = if self.of_site.get(&site).copied().unwrap_or(0) >= self.per_address {
            Some(self.least_of(site).ok_or(Full::Address)?)
        } else if self.open.len() >= self.total {
            Some(self.ranks.first().copied().ok_or(Full::Server)?)
        } else {
            None
        };
        if let Some((_, _, id)) = least {
            self.close(id, now);
        }
        self.numbers += 1;
        let id = self.numbers;
        let (sender, due) = watch::channel(Some(now + self.head));
        let open = Open {
            site,
            proved: false,
            under_way: 0,
            rank: None,
            due: sender,
        };
        self.open.insert(id, open);
        *self.of_site.entry(site).or_insert(0) += 1;
        self.rank(id);
        Ok(Entered {
            id,
            due,
            made_room: least.is_some(),
        })
    }

    /// Closes as many as `most` of those that are worth least; says how many.
    pub fn make_room(&mut self, most: usize, now: Instant) -> usize {
        let least: Vec<u64> = self.ranks.iter().take(most).map(|rank| rank.2).collect();
        least.into_iter().filter(|id| self.close(*id, now)).count()
    }

    /// A request's head has come.
    pub fn begin(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.under_way += 1;
            open.due.send_replace(None);
        }
        self.rank(id);
    }

    /// A request was answered in full, or given up.
    pub fn end(&mut self, id: u64, now: Instant) {
        if let Some(open) = self.open.get_mut(&id) {
            open.under_way = open.under_way.saturating_sub(1);
            if open.under_way == 0 {
                open.due.send_replace(Some(now + self.idle));
            }
        }
        self.rank(id);
    }

    /// Somebody proved who they are.
    pub fn prove(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.proved = true;
        }
        self.rank(id);
    }

    /// A connection has ended.
    pub fn leave(&mut self, id: u64) {
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        self.unrank(open.site, open.rank);
        if let Some(count) = self.of_site.get_mut(&open.site) {
            *count -= 1;
            if *count == 0 {
                self.of_site.remove(&open.site);
            }
        }
    }

    /// Takes a connection's place away: it is over at once. False: it had none.
    pub fn close(&mut self, id: u64, now: Instant) -> bool {
        let Some(open) = self.open.get(&id) else {
            return false;
        };
        open.due.send_replace(Some(now));
        self.leave(id);
        true
    }

    fn least_of(&self, site: IpAddr) -> Option<Rank> {
        let first = (site, (Worth::Unproved, 0, 0));
        let (of, rank) = self.ranks_of_site.range(first..).next()?;
        (*of == site).then_some(*rank)
    }

    /// Ranks a connection anew, after something of it changed.
    fn rank(&mut self, id: u64) {
        let Some(open) = self.open.get(&id) else {
            return;
        };
        let rank = match (open.proved, open.under_way) {
            (false, _) => Some((Worth::Unproved, id, id)),
            (true, 0) => {
                self.numbers += 1;
                Some((Worth::Rests, self.numbers, id))
            }
            (true, _) => None,
        };
        if open.rank == rank {
            return;
        }
        let (site, old) = (open.site, open.rank);
        self.unrank(site, old);
        if let Some(rank) = rank {
            self.ranks.insert(rank);
            self.ranks_of_site.insert((site, rank));
        }
        if let Some(open) = self.open.get_mut(&id) {
            open.rank = rank;
        }
    }

    fn unrank(&mut self, site: IpAddr, rank: Option<Rank>) {
        if let Some(rank) = rank {
            self.ranks.remove(&rank);
            self.ranks_of_site.remove(&(site, rank));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::num::NonZeroU32;

    use super::*;

    fn places(total: u32, per_address: u32) -> Places {
        let number = |number| NonZeroU32::new(number).unwrap();
        Places::new(&ConnectionSettings {
            total: number(total),
            per_address: number(per_address),
            head_seconds: number(10),
            idle_seconds: number(100),
        })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn enter(places: &mut Places, last: u8) -> u64 {
        places.enter(address(last), Instant::now()).unwrap().id
    }

    /// A node that has proved itself, with a request under way.
    fn streaming(places: &mut Places, last: u8) -> u64 {
        let id = enter(places, last);
        places.begin(id);
        places.prove(id);
        id
    }

    #[test]
    fn the_oldest_that_proved_nothing_makes_room_however_much_it_asks() {
        let mut places = places(3, 3);
        let (first, second) = (enter(&mut places, 1), enter(&mut places, 2));
        let node = streaming(&mut places, 3);
        places.begin(first);
        places.end(first, Instant::now());
        places.begin(first);
        let entered = places.enter(address(4), Instant::now()).unwrap();
        assert!(entered.made_room && !places.holds(first));
        assert!(places.holds(second) && places.holds(node));
        assert_eq!(places.len(), 3);
    }

    #[test]
    fn a_node_at_rest_makes_room_after_all_strangers_and_one_that_is_served_never() {
        let mut places = places(2, 2);
        let (rests, served) = (streaming(&mut places, 1), streaming(&mut places, 2));
        places.end(rests, Instant::now());
        let stranger = enter(&mut places, 3);
        assert!(!places.holds(rests) && places.holds(served));
        streaming(&mut places, 4);
        assert!(!places.holds(stranger) && places.holds(served));
        let full = places.enter(address(5), Instant::now());
        assert_eq!(full.unwrap_err(), Full::Server);
    }

    #[test]
    fn one_address_makes_room_among_its_own_and_takes_no_place_of_others() {
        let mut places = places(100, 2);
        let other = enter(&mut places, 9);
        let first = enter(&mut places, 1);
        for _ in 0..50 {
            enter(&mut places, 1);
        }
        assert_eq!(places.len(), 3);
        assert!(places.holds(other) && !places.holds(first));
        streaming(&mut places, 1);
        streaming(&mut places, 1);
        let full = places.enter(address(1), Instant::now());
        assert_eq!(full.unwrap_err(), Full::Address);
        assert!(places.enter(address(2), Instant::now()).is_ok());
    }

    #[test]
    fn a_head_has_its_time_a_rest_has_another_and_what_is_answered_has_all_the_time() {
        let mut places = places(2, 2);
        let now = Instant::now();
        let entered = places.enter(address(1), now).unwrap();
        let due = |entered: &Entered| *entered.due.borrow();
        assert_eq!(due(&entered), Some(now + Duration::from_secs(10)));
        places.begin(entered.id);
        places.begin(entered.id);
        places.end(entered.id, now);
        assert_eq!(due(&entered), None, "another one is under way");
        places.end(entered.id, now);
        assert_eq!(due(&entered), Some(now + Duration::from_secs(100)));
    }

    #[test]
    fn who_lost_its_place_is_over_and_a_late_request_does_not_bring_it_back() {
        let mut places = places(1, 1);
        let now = Instant::now();
        let entered = places.enter(address(1), now).unwrap();
        let next = places.enter(address(1), now).unwrap().id;
        places.begin(entered.id);
        places.prove(entered.id);
        assert_eq!(*entered.due.borrow(), Some(now));
        places.leave(entered.id);
        assert!(places.holds(next));
    }

    #[test]
    fn nothing_is_left_of_those_that_left() {
        let mut places = places(10, 10);
        let ids: Vec<u64> = (0..10)
            .map(|last| streaming(&mut places, last % 3))
            .collect();
        for id in &ids {
            places.end(*id, Instant::now());
        }
        assert_eq!(places.make_room(4, Instant::now()), 4);
        ids.iter().for_each(|id| places.leave(*id));
        assert_eq!(places.len(), 0);
        assert!(places.of_site.is_empty());
        assert!(places.ranks.is_empty() && places.ranks_of_site.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_when_its_time_is_up_and_not_while_it_is_answered() {
        let mut places = places(1, 1);
        let entered = places.enter(address(1), Instant::now()).unwrap();
        let began = Instant::now();
        let mut over = std::pin::pin!(over(entered.due));
        places.begin(entered.id);
        let day = Duration::from_secs(24 * 3600);
        let waited = tokio::time::timeout(day, over.as_mut()).await;
        assert!(waited.is_err(), "it ended while it was answered");
        places.end(entered.id, Instant::now());
        over.await;
        assert_eq!(began.elapsed().as_secs(), day.as_secs() + 100);
    }
}
