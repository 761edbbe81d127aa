//! Which blocks may still be leased: all from the frontier on, and what came back.
//!
//! Done blocks are not stored: they are what lies below the frontier and is neither
//! returned, leased nor waiting. So the pool stays small however long the run is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::BlockRange;

/// Consecutive blocks with one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub start: u64,
    pub end: u64,
    /// How often these blocks were leased before the present lease.
    pub leased: u32,
}

impl Piece {
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    pub fn range(&self) -> BlockRange {
        BlockRange {
            start: self.start,
            end: self.end,
        }
    }
}

/// Blocks that may be leased.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BlockPool {
    /// First block that was never leased.
    frontier: u64,
    /// start → (end, how often leased), disjoint, all below the frontier.
    returned: BTreeMap<u64, (u64, u32)>,
}

impl BlockPool {
    pub fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Blocks below the frontier that may be leased again.
    pub fn returned(&self) -> impl Iterator<Item = Piece> + '_ {
        let pieces = self.returned.iter();
        pieces.map(|(&start, &(end, leased))| Piece { start, end, leased })
    }

    /// What the next lease of `count` blocks would hold: returned blocks first, lowest first,
    /// then fresh ones; at most two epochs, so that no lease sees one sequence three times.
    pub fn next(&self, count: u64, blocks_per_epoch: u64) -> Vec<Piece> {
        let frontier = self.frontier;
        let lowest = self.returned.keys().next().copied().unwrap_or(frontier);
        let limit = match blocks_per_epoch {
            0 => u64::MAX,
            epoch => (lowest / epoch).saturating_add(2).saturating_mul(epoch),
        };
        let fresh = Piece {
            start: frontier,
            end: u64::MAX,
            leased: 0,
        };
        let mut left = count;
        let mut chosen: Vec<Piece> = Vec::new();
        for piece in self.returned().chain([fresh]) {
            let end = piece.end.min(piece.start.saturating_add(left)).min(limit);
            if end <= piece.start {
                break;
            }
            left -= end - piece.start;
            chosen.push(Piece { end, ..piece });
        }
        chosen
    }

    /// Takes blocks out of the pool, whatever their order; blocks at or past the frontier
    /// move it (an event is never refused: what an older program leased stays leased).
    pub fn take(&mut self, ranges: &[BlockRange]) -> Vec<Piece> {
        let mut taken = Vec::new();
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let piece = self.take_from(at, range.end);
                at = piece.end;
                taken.push(piece);
            }
        }
        taken
    }

    fn take_from(&mut self, at: u64, end: u64) -> Piece {
        if at >= self.frontier {
            if self.frontier < at {
                self.returned.insert(self.frontier, (at, 0));
            }
            self.frontier = end;
            return Piece {
                start: at,
                end,
                leased: 0,
            };
        }
        let held = self.returned.range(..=at).next_back();
        if let Some((start, stop, leased)) = held.map(|(&s, &(e, l))| (s, e, l))
            && at < stop
        {
            let cut = stop.min(end);
            self.returned.remove(&start);
            if start < at {
                self.returned.insert(start, (at, leased));
            }
            if cut < stop {
                self.returned.insert(cut, (stop, leased));
            }
            return Piece {
                start: at,
                end: cut,
                leased,
            };
        }
        // Not in the pool: nothing that decide writes comes here.
        let next = self.returned.range(at..).next().map(|(&start, _)| start);
        let end = end.min(next.unwrap_or(u64::MAX)).min(self.frontier);
        Piece {
            start: at,
            end,
            leased: 0,
        }
    }

    /// Puts leased blocks back, one lease older.
    pub fn give_back(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            let (mut start, mut end) = (piece.start, piece.end);
            let leased = piece.leased.saturating_add(1);
            if let Some((&before, &(stop, count))) = self.returned.range(..=start).next_back()
                && stop == start
                && count == leased
            {
                self.returned.remove(&before);
                start = before;
            }
            if let Some(&(stop, count)) = self.returned.get(&end)
                && count == leased
            {
                self.returned.remove(&end);
                end = stop;
            }
            self.returned.insert(start, (end, leased));
        }
    }
}

/// Splits pieces after their first `count` blocks.
pub(crate) fn split(pieces: Vec<Piece>, count: u64) -> (Vec<Piece>, Vec<Piece>) {
    let (mut done, mut rest, mut left) = (Vec::new(), Vec::new(), count);
    for piece in pieces {
        let cut = piece.start + left.min(piece.len());
        left -= cut - piece.start;
        if piece.start < cut {
            done.push(Piece { end: cut, ..piece });
        }
        if cut < piece.end {
            rest.push(Piece {
                start: cut,
                ..piece
            });
        }
    }
    (done, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> BlockRange {
        BlockRange { start, end }
    }

    fn lease(pool: &mut BlockPool, count: u64, epoch: u64) -> Vec<Piece> {
        let ranges: Vec<_> = pool.next(count, epoch).iter().map(Piece::range).collect();
        pool.take(&ranges)
    }

    #[test]
    fn fresh_blocks_follow_one_another() {
        let mut pool = BlockPool::default();
        assert_eq!(lease(&mut pool, 3, 100)[0].range(), range(0, 3));
        assert_eq!(lease(&mut pool, 2, 100)[0].range(), range(3, 5));
        assert_eq!(pool.frontier(), 5);
    }

    #[test]
    fn returned_blocks_go_first_lowest_first_and_know_their_attempts() {
        let mut pool = BlockPool::default();
        let first = lease(&mut pool, 4, 100);
        let second = lease(&mut pool, 4, 100);
        pool.give_back(&second);
        pool.give_back(&split(first, 2).1);
        let again = lease(&mut pool, 7, 100);
        assert_eq!(
            again,
            vec![
                Piece {
                    start: 2,
                    end: 8,
                    leased: 1
                },
                Piece {
                    start: 8,
                    end: 9,
                    leased: 0
                }
            ]
        );
    }

    #[test]
    fn neighbours_with_another_history_stay_apart() {
        let mut pool = BlockPool::default();
        let first = lease(&mut pool, 4, 100);
        pool.give_back(&first);
        let again = lease(&mut pool, 2, 100);
        pool.give_back(&again);
        let leased: Vec<_> = pool
            .returned()
            .map(|p| (p.start, p.end, p.leased))
            .collect();
        assert_eq!(leased, vec![(0, 2, 2), (2, 4, 1)]);
    }

    #[test]
    fn a_lease_crosses_at_most_one_epoch_boundary() {
        let mut pool = BlockPool::default();
        lease(&mut pool, 7, 10);
        assert_eq!(lease(&mut pool, 100, 10)[0].range(), range(7, 20));
        assert_eq!(lease(&mut pool, 100, 10)[0].range(), range(20, 40));
    }

    #[test]
    fn split_cuts_inside_a_piece() {
        let pieces = vec![
            Piece {
                start: 0,
                end: 3,
                leased: 0,
            },
            Piece {
                start: 9,
                end: 12,
                leased: 1,
            },
        ];
        let (done, rest) = split(pieces, 4);
        assert_eq!(done.iter().map(Piece::len).sum::<u64>(), 4);
        assert_eq!(rest[0].range(), range(10, 12));
    }
}
