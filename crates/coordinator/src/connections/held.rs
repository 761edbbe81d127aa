//! Bytes that requests make the server hold while it waits for their peers: the head and the
//! body of one that has not proved who sends it, and an answer that is not read yet. All of them
//! together have a bound; where it would be passed, those connections are over whose bytes have
//! been held longest. Honest peers send a body and read an answer within seconds, so the oldest
//! are those who stall. No socket and no clock.

use std::collections::BTreeMap;

/// What is held, and for which connections.
pub struct Held {
    most: u64,
    bytes: u64,
    /// Numbers that were given.
    numbers: u64,
    /// Connection and bytes, by number and so by age.
    claims: BTreeMap<u64, (u64, u64)>,
}

impl Held {
    /// Nothing, and at most so many bytes.
    pub fn new(most: u64) -> Self {
        Self {
            most,
            bytes: 0,
            numbers: 0,
            claims: BTreeMap::new(),
        }
    }

    /// Bytes are held for a connection. The number to release them by, and the connections that
    /// are over for it, oldest first. A claim that is larger than all there may be passes alone:
    /// the answer is there already.
    pub fn hold(&mut self, connection: u64, bytes: u64) -> (u64, Vec<u64>) {
        let mut over = Vec::new();
        while self.bytes.saturating_add(bytes) > self.most
            && let Some((_, (oldest, freed))) = self.claims.pop_first()
        {
            self.bytes -= freed;
            over.push(oldest);
        }
        self.numbers += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.claims.insert(self.numbers, (connection, bytes));
        (self.numbers, over)
    }

    /// They are not held any more. Saying so twice is harmless.
    pub fn release(&mut self, number: u64) {
        if let Some((_, bytes)) = self.claims.remove(&number) {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_held_longest_is_over_when_there_is_too_much() {
        let mut held = Held::new(100);
        let (_, over) = held.hold(1, 60);
        assert!(over.is_empty());
        assert!(held.hold(2, 40).1.is_empty());
        assert_eq!(held.hold(3, 10).1, [1]);
        assert_eq!(held.hold(4, 90).1, [2]);
        assert_eq!(held.bytes, 100);
    }

    #[test]
    fn what_is_released_in_time_ends_nobody() {
        let mut held = Held::new(100);
        for connection in 0..1_000 {
            let (number, over) = held.hold(connection, 100);
            assert!(over.is_empty());
            held.release(number);
            held.release(number);
        }
        assert_eq!(held.bytes, 0);
        assert!(held.claims.is_empty());
    }

    #[test]
    fn one_that_is_too_large_for_all_passes_alone() {
        let mut held = Held::new(100);
        held.hold(1, 50);
        let (number, over) = held.hold(2, 1_000);
        assert_eq!(over, [1]);
        assert_eq!(held.hold(3, 1).1, [2]);
        held.release(number);
        assert_eq!(held.bytes, 1);
    }
}
