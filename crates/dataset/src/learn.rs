//! Learning byte pairs: the most frequent pair of neighbours becomes a token, again and
//! again (Sennrich, Haddow, Birch: "Neural machine translation of rare words with subword
//! units", 2016), over bytes as in GPT-2.
//!
//! The `tokenizers` library has such a trainer; this one exists because a dataset's tokens
//! must be the same bytes each time they are made. The library walks through hash maps with
//! random keys, and where a pair enters its queue twice the order decides. Here every step
//! is ordered: the highest count first, among equals the pair with the smallest ids, which
//! are also the library's rules; a test compares the results.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::AHashMap;

use crate::bytes::chars;

type Pair = (u32, u32);

/// A pair that is seen only once teaches nothing.
const LEAST_COUNT: u64 = 2;

/// What was learned.
pub(crate) struct Learned {
    /// Each token's characters, by id: the special token, the 256 bytes in the order of their
    /// characters, then the merged pairs in order.
    pub(crate) tokens: Vec<String>,
    /// The merged pairs, first to last.
    pub(crate) merges: Vec<Pair>,
}

#[derive(Default)]
struct Seen {
    count: u64,
    /// Words in which it may occur; some no longer have it, some stand here twice.
    words: Vec<u32>,
}

struct Learner {
    words: Vec<(Vec<u32>, u64)>,
    pairs: AHashMap<Pair, Seen>,
    /// Counts here may be out of date; the truth is in `pairs`.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

/// Learns at most `vocab_size` tokens from words and how often each occurs.
pub(crate) fn learn(
    mut words: Vec<(String, u64)>,
    vocab_size: usize,
    special: &str,
    mut progress: impl FnMut(usize),
) -> Learned {
    // The order of words decides nothing but the order of work; sorted, even that is fixed.
    words.sort_unstable();
    let mut alphabet = *chars();
    alphabet.sort_unstable();
    let mut tokens = vec![special.to_owned()];
    tokens.extend(alphabet.iter().map(|c| c.to_string()));
    let mut ids: AHashMap<String, u32> = (0u32..)
        .zip(&tokens)
        .map(|(id, t)| (t.clone(), id))
        .collect();
    let byte_ids = chars().map(|c| ids[c.encode_utf8(&mut [0; 4]) as &str]);

    let mut learner = Learner::new(words, &byte_ids);
    let mut merges = Vec::new();
    while tokens.len() < vocab_size {
        let Some(pair) = learner.next_pair() else {
            break;
        };
        let token = format!("{}{}", tokens[pair.0 as usize], tokens[pair.1 as usize]);
        // Two ways can lead to the same token: "ab"+"c" and "a"+"bc".
        let id = *ids.entry(token).or_insert_with_key(|token| {
            tokens.push(token.clone());
            tokens.len() as u32 - 1
        });
        merges.push(pair);
        learner.merge(pair, id);
        progress(tokens.len());
    }
    Learned { tokens, merges }
}

impl Learner {
    fn new(words: Vec<(String, u64)>, byte_ids: &[u32; 256]) -> Self {
        let mut pairs: AHashMap<Pair, Seen> = AHashMap::new();
        let words: Vec<(Vec<u32>, u64)> = words
            .into_iter()
            .map(|(word, count)| {
                (
                    word.bytes().map(|b| byte_ids[usize::from(b)]).collect(),
                    count,
                )
            })
            .collect();
        for (number, (word, count)) in (0..).zip(&words) {
            for pair in word.windows(2) {
                let seen = pairs.entry((pair[0], pair[1])).or_default();
                seen.count += count;
                if seen.words.last() != Some(&number) {
                    seen.words.push(number);
                }
            }
        }
        let queue = pairs
            .iter()
            .map(|(pair, seen)| (seen.count, Reverse(*pair)))
            .collect();
        Self {
            words,
            pairs,
            queue,
        }
    }

    /// The most frequent pair. Counts that rose were queued again when they rose; those that
    /// fell are queued again here.
    fn next_pair(&mut self) -> Option<Pair> {
        loop {
            let (queued, Reverse(pair)) = self.queue.pop()?;
            let count = self.pairs.get(&pair).map_or(0, |seen| seen.count);
            if count == queued && count >= LEAST_COUNT {
                return Some(pair);
            }
            if count < queued && count >= LEAST_COUNT {
                self.queue.push((count, Reverse(pair)));
            }
        }
    }

    fn merge(&mut self, pair: Pair, id: u32) {
        let Some(seen) = self.pairs.remove(&pair) else {
            return;
        };
        let mut risen = Vec::new();
        for number in seen.words {
            let (word, count) = &mut self.words[number as usize];
            if !word.windows(2).any(|two| (two[0], two[1]) == pair) {
                continue;
            }
            for two in word.windows(2) {
                // The merged pair itself is gone from the table.
                if let Some(seen) = self.pairs.get_mut(&(two[0], two[1])) {
                    seen.count -= *count;
                }
            }
            replace(word, pair, id);
            for two in word.windows(2) {
                let two = (two[0], two[1]);
                let new = two.0 == id || two.1 == id;
                if !new && two != pair {
                    if let Some(seen) = self.pairs.get_mut(&two) {
                        seen.count += *count;
                    }
                    continue;
                }
                let seen = self.pairs.entry(two).or_default();
                seen.count += *count;
                if seen.words.last() != Some(&number) {
                    seen.words.push(number);
                }
                risen.push(two);
            }
        }
        risen.sort_unstable();
        risen.dedup();
        let pairs = &self.pairs;
        let queued = risen
            .into_iter()
            .map(|pair| (pairs[&pair].count, Reverse(pair)));
        self.queue.extend(queued);
    }
}

/// Replaces each `pair` in `word`, from the left.
fn replace(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let (mut from, mut to) = (0, 0);
    while from < word.len() {
        let found = from + 1 < word.len() && (word[from], word[from + 1]) == pair;
        word[to] = if found { id } else { word[from] };
        from += if found { 2 } else { 1 };
        to += 1;
    }
    word.truncate(to);
}
