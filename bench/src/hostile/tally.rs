//! What attacks must get, and what they got.

use opengpu_protocol::ClientError;

/// What was wrong is kept with so many words for each kind of wrong.
const MOST_WORDS: usize = 20;

/// What a request must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// A refusal (4xx), a closed connection, or nothing: whatever it does, it is not taken.
    BeRefused,
    /// Anything but a server's fault: an honest client may send it as well, or nothing of what is
    /// wrong with it is read.
    BeNoFault,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    Status(u16),
    Closed,
    Silent,
}

impl Became {
    /// Of a request of the product's client.
    pub fn of<T>(result: &Result<T, ClientError>) -> Self {
        match result {
            Ok(_) => Self::Status(200),
            Err(error) => error.status().map_or(Self::Closed, Self::Status),
        }
    }
}

/// What became of an attacker's requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answered with success or a redirection.
    pub accepted: u64,
    /// Answered with a refusal.
    pub refused: u64,
    /// Ended without an answer.
    pub closed: u64,
    /// Neither answered nor ended within a second.
    pub silent: u64,
    /// What was answered with a server's fault (5xx): none should be.
    pub faults: Vec<String>,
    /// What was answered with success or a redirection, and had to be refused: none should be.
    pub passed: Vec<String>,
}

impl Tally {
    /// Requests and connections.
    pub fn sent(&self) -> u64 {
        self.accepted + self.refused + self.closed + self.silent + self.faults.len() as u64
    }

    /// What went wrong, in words; None if nothing did.
    pub fn wrong(&self) -> Option<String> {
        let faults = self.faults.iter().map(|fault| format!("a fault: {fault}"));
        let passed = self.passed.iter();
        let passed = passed.map(|passed| format!("taken: {passed}"));
        let wrong: Vec<String> = faults.chain(passed).collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    /// Counts what became of a request.
    pub fn count(&mut self, what: &str, must: Must, became: Became) {
        match became {
            Became::Status(status @ 500..) => note(&mut self.faults, status, what),
            Became::Status(400..) => self.refused += 1,
            Became::Status(status) => {
                self.accepted += 1;
                if must == Must::BeRefused {
                    note(&mut self.passed, status, what);
                }
            }
            Became::Closed => self.closed += 1,
            Became::Silent => self.silent += 1,
        }
    }
}

fn note(words: &mut Vec<String>, status: u16, what: &str) {
    if words.len() < MOST_WORDS {
        words.push(format!("{status} to {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_to_be_refused_and_was_not_is_named_and_so_is_a_fault() {
        let mut tally = Tally::default();
        for became in [Became::Status(403), Became::Closed, Became::Silent] {
            tally.count("a forged signature", Must::BeRefused, became);
        }
        tally.count("a page", Must::BeNoFault, Became::Status(200));
        assert_eq!(tally.wrong(), None);
        assert_eq!(tally.sent(), 4);
        tally.count("a forged signature", Must::BeRefused, Became::Status(200));
        tally.count("a page", Must::BeNoFault, Became::Status(500));
        assert_eq!(
            tally.wrong().as_deref(),
            Some("a fault: 500 to a page; taken: 200 to a forged signature")
        );
    }
}
