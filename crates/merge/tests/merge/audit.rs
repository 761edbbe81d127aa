//! Audits: an honest worker's openings prove its update over any history of verdicts, and each
//! way to lie is refused or shows as distance.

use opengpu_merge::audit::{
    Again, BadAgain, Before, CLASS_BYTES, Claim, Opened, WrongOpening, check_openings, commitment,
    draw_chunks, openings_bytes, typical_length, write_openings,
};
use opengpu_merge::{Codec, Layout, audit, encode, feedback};
use proptest::prelude::*;

use crate::values::Random;

const DECAY: f32 = 0.9;
const CODEC: Codec = Codec::Sparse { k: 16 };

fn layout() -> Layout {
    Layout::new([9000, 64, 4096, 3 * 4096 + 1])
}

/// What happened to a worker's update.
struct Sent {
    accumulated: Vec<f32>,
    payload: Vec<u8>,
}

impl Sent {
    fn root(&self, layout: &Layout) -> [u8; 32] {
        commitment(layout, &self.accumulated)
    }
}

/// A worker's error feedback and where its training led.
struct Worker {
    layout: Layout,
    unsent: Vec<f32>,
}

impl Worker {
    fn new() -> Self {
        let layout = layout();
        let unsent = vec![0.0; layout.len()];
        Self { layout, unsent }
    }

    fn send(&mut self, global: &[f32], local: &[f32]) -> Sent {
        let (layout, e) = (&self.layout, &mut self.unsent);
        feedback::accumulate(CODEC, layout, DECAY, e, global, local).unwrap();
        let accumulated = e.clone();
        let payload = encode(CODEC, layout, e).unwrap();
        Sent {
            accumulated,
            payload,
        }
    }

    fn give_back(&mut self, sent: &Sent, part: f32) {
        feedback::restore(&self.layout, &sent.payload, part, &mut self.unsent).unwrap();
    }
}

fn weights(seed: u64, scale: f32) -> Vec<f32> {
    let mut random = Random(seed);
    (0..layout().len()).map(|_| scale * random.bell()).collect()
}

fn all() -> Vec<usize> {
    (0..layout().chunk_count()).collect()
}

fn claim<'a>(sent: &'a Sent, before: Option<Before<'a>>, chunks: &'a [usize]) -> Claim<'a> {
    Claim {
        codec: CODEC,
        decay: DECAY,
        payload: &sent.payload,
        root: sent.root(&layout()),
        before,
        chunks,
    }
}

fn before<'a>(sent: &'a Sent, given_back: Vec<(&'a [u8], f32)>) -> Before<'a> {
    Before {
        root: sent.root(&layout()),
        payload: &sent.payload,
        given_back,
    }
}

fn farthest(opened: &[Opened], global: &[f32], local: &[f32]) -> f64 {
    let typical = typical_length(&layout(), global, local);
    audit::farthest(opened, (global, local), typical)
}

#[test]
fn accumulating_and_encoding_is_sending_bit_for_bit() {
    let (layout, global, local) = (layout(), weights(1, 1.0), weights(2, 1.0));
    let mut at_once = weights(3, 0.1);
    let mut in_halves = at_once.clone();
    let sent = feedback::send(CODEC, &layout, DECAY, &mut at_once, &global, &local).unwrap();
    feedback::accumulate(CODEC, &layout, DECAY, &mut in_halves, &global, &local).unwrap();
    assert_eq!(encode(CODEC, &layout, &mut in_halves).unwrap(), sent);
    assert_eq!(at_once, in_halves);
}

#[test]
fn a_first_update_is_proven_and_its_progress_is_what_training_gives() {
    let (global, local) = (weights(1, 1.0), weights(2, 1.0));
    let sent = Worker::new().send(&global, &local);
    let bytes = write_openings(&layout(), &all(), &sent.accumulated, None);
    assert_eq!(bytes.len(), openings_bytes(&layout(), &all(), false));
    let opened = check_openings(&layout(), &claim(&sent, None, &all()), &bytes).unwrap();
    assert_eq!(farthest(&opened, &global, &local), 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever became of the updates before, an honest worker's next one is proven.
    #[test]
    fn an_honest_update_is_proven_after_any_verdicts(
        seed in any::<u64>(),
        parts in proptest::collection::vec(prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..1.0], 1..4),
        draw in any::<u64>(),
    ) {
        let (layout, mut worker) = (layout(), Worker::new());
        let global = weights(seed, 1.0);
        let mut history: Vec<Sent> = Vec::new();
        // All but the last verdict come late, together, before the last update is made.
        for step in 0..parts.len() as u64 {
            let local = weights(seed.wrapping_add(step + 1), 1.0);
            let sent = worker.send(&global, &local);
            history.push(sent);
        }
        let mut given_back = Vec::new();
        for (sent, part) in history.iter().zip(&parts) {
            if *part > 0.0 {
                worker.give_back(sent, *part);
                given_back.push((sent.payload.as_slice(), *part));
            }
        }
        let local = weights(seed.wrapping_add(77), 1.0);
        let last = worker.send(&global, &local);
        let previous = history.last().unwrap();
        let chunks = draw_chunks(&layout, draw, 4);
        let bytes = write_openings(
            &layout, &chunks, &last.accumulated, Some(&previous.accumulated),
        );
        let claim = claim(&last, Some(before(previous, given_back)), &chunks);
        let opened = check_openings(&layout, &claim, &bytes).unwrap();
        let distance = farthest(&opened, &global, &local);
        prop_assert!(distance < 1e-5, "seed {seed}: {distance}");
    }

    /// Bytes of any kind are refused or read, never a panic.
    #[test]
    fn mutated_openings_are_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (global, local) = (weights(1, 1.0), weights(2, 1.0));
        let mut worker = Worker::new();
        let first = worker.send(&global, &local);
        let last = worker.send(&global, &local);
        let chunks = draw_chunks(&layout(), 5, 3);
        let mut bytes =
            write_openings(&layout(), &chunks, &last.accumulated, Some(&first.accumulated));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let claim = claim(&last, Some(before(&first, Vec::new())), &chunks);
        prop_assert!(check_openings(&layout(), &claim, &bytes).is_err());
        let refused = check_openings(&layout(), &claim, &bytes[..at]);
        let is_size = matches!(refused, Err(WrongOpening::Size { .. }));
        prop_assert!(is_size);
    }
}

#[test]
fn a_payload_that_is_not_the_codecs_record_is_found() {
    let (global, local) = (weights(1, 1.0), weights(2, 1.0));
    let mut sent = Worker::new().send(&global, &local);
    // What a sign flip sends while it commits to honest progress.
    let mut flipped: Vec<f32> = sent.accumulated.iter().map(|value| -value).collect();
    sent.payload = encode(CODEC, &layout(), &mut flipped).unwrap();
    let bytes = write_openings(&layout(), &all(), &sent.accumulated, None);
    assert_eq!(
        check_openings(&layout(), &claim(&sent, None, &all()), &bytes),
        Err(WrongOpening::NotItsRecord { chunk: 0 })
    );
}

#[test]
fn a_poison_hidden_in_the_error_feedback_is_found_in_the_chunks_that_hold_it() {
    let (global, local) = (weights(1, 1.0), weights(2, 1.0));
    let mut worker = Worker::new();
    let first = worker.send(&global, &local);
    // Between two updates the worker adds something to what it has not sent.
    worker.unsent[9000 + 64 + 70] += 5.0;
    let last = worker.send(&global, &local);
    let bytes = write_openings(
        &layout(),
        &all(),
        &last.accumulated,
        Some(&first.accumulated),
    );
    let opened = check_openings(
        &layout(),
        &claim(&last, Some(before(&first, Vec::new())), &all()),
        &bytes,
    )
    .unwrap();
    let typical = typical_length(&layout(), &global, &local);
    let far: Vec<usize> = (0..opened.len())
        .filter(|&place| opened[place].distance(&global, &local, typical) > 1e-3)
        .collect();
    // Three chunks of the first tensor and one of the second come before it.
    assert_eq!(far, [4]);
}

#[test]
fn a_lie_in_an_earlier_round_is_bounded_by_what_may_be_left_unsent() {
    let (global, local) = (weights(1, 1.0), weights(2, 1.0));
    let mut worker = Worker::new();
    // A round that nobody audited claims a thousand times the progress there was.
    let far: Vec<f32> = local.iter().map(|value| 1000.0 * value).collect();
    let first = worker.send(&global, &far);
    let last = worker.send(&global, &local);
    let bytes = write_openings(
        &layout(),
        &all(),
        &last.accumulated,
        Some(&first.accumulated),
    );
    let chunks = all();
    let claim = claim(&last, Some(before(&first, Vec::new())), &chunks);
    let opened = check_openings(&layout(), &claim, &bytes).unwrap();
    let typical = typical_length(&layout(), &global, &local);
    let refused = opened.iter().filter(|chunk| {
        chunk
            .check_unsent(DECAY, (&global, &local), typical)
            .is_err()
    });
    // The last chunk is a single weight, which is always sent.
    assert_eq!(refused.count(), opened.len() - 1);
}

#[test]
fn honest_rounds_leave_no_more_unsent_than_they_may() {
    let global = weights(1, 1.0);
    let mut worker = Worker::new();
    let mut previous: Option<Sent> = None;
    for round in 0..60 {
        // The same direction again and again, which leaves the most, and nothing of it merged
        // every third round.
        let local: Vec<f32> = weights(2, 1.0)
            .iter()
            .zip(weights(100 + round, 0.3))
            .map(|(always, now)| always + now)
            .collect();
        let sent = worker.send(&global, &local);
        if let Some(previous) = &previous {
            let given_back: Vec<(&[u8], f32)> = match round % 3 {
                0 => vec![(previous.payload.as_slice(), 1.0)],
                _ => Vec::new(),
            };
            let bytes = write_openings(
                &layout(),
                &all(),
                &sent.accumulated,
                Some(&previous.accumulated),
            );
            let chunks = all();
            let claim = claim(&sent, Some(before(previous, given_back)), &chunks);
            let opened = check_openings(&layout(), &claim, &bytes).unwrap();
            let typical = typical_length(&layout(), &global, &local);
            for chunk in opened {
                chunk
                    .check_unsent(DECAY, (&global, &local), typical)
                    .unwrap();
            }
        }
        if round % 3 == 2 {
            worker.give_back(&sent, 1.0);
        }
        previous = Some(sent);
    }
}

#[test]
fn a_history_other_than_the_real_one_is_found() {
    let (global, local) = (weights(1, 1.0), weights(2, 1.0));
    let mut worker = Worker::new();
    let first = worker.send(&global, &local);
    worker.give_back(&first, 0.5);
    let last = worker.send(&global, &local);
    let bytes = write_openings(
        &layout(),
        &all(),
        &last.accumulated,
        Some(&first.accumulated),
    );
    let check = |given_back| {
        let before = before(&first, given_back);
        let opened = check_openings(&layout(), &claim(&last, Some(before), &all()), &bytes);
        farthest(&opened.unwrap(), &global, &local)
    };
    assert!(check(vec![(first.payload.as_slice(), 0.5)]) < 1e-5);
    // The verdict gave nothing back, or all: the progress does not fit then.
    assert!(check(Vec::new()) > 0.01);
    assert!(check(vec![(first.payload.as_slice(), 1.0)]) > 0.01);
}

#[test]
fn chunks_are_drawn_rising_without_repetition_and_in_turn_over_many_draws() {
    let layout = layout();
    let mut hits = vec![0; layout.chunk_count()];
    for draw in 0..2000 {
        let drawn = draw_chunks(&layout, draw, 3);
        assert_eq!(drawn.len(), 3);
        assert!(drawn.is_sorted_by(|a, b| a < b));
        drawn.iter().for_each(|number| hits[*number] += 1);
        assert_eq!(drawn, draw_chunks(&layout, draw, 3));
    }
    let expected = 2000 * 3 / layout.chunk_count();
    for hits in hits {
        assert!(
            (expected * 8 / 10..expected * 12 / 10).contains(&hits),
            "{hits} {expected}"
        );
    }
    assert_eq!(draw_chunks(&layout, 1, 99).len(), layout.chunk_count());
}

/// What a training from one place to another gave, in all chunks.
fn again(global: &[f32], local: &[f32]) -> Again {
    Again::of(&layout(), &all(), (global, local), "some class")
}

#[test]
fn who_trained_it_again_elsewhere_measures_the_same_distance() {
    let (global, local) = (weights(1, 1.0), weights(2, 1.0));
    let sent = Worker::new().send(&global, &local);
    let bytes = write_openings(&layout(), &all(), &sent.accumulated, None);
    let opened = check_openings(&layout(), &claim(&sent, None, &all()), &bytes).unwrap();
    let other = weights(3, 1.0);
    for led_to in [&local, &other] {
        let here = farthest(&opened, &global, led_to);
        let bytes = again(&global, led_to).write();
        assert_eq!(bytes.len(), Again::bytes_of(&layout(), &all()));
        let there = Again::read(&layout(), &all(), &bytes).unwrap();
        assert_eq!(there, again(&global, led_to));
        assert_eq!(there.farthest(&opened), here);
        assert_eq!(there.class(), "some class");
        assert!(there.check_unsent(DECAY, &opened).is_ok());
    }
    let true_one = again(&global, &local);
    assert_eq!(true_one.far_from(&true_one), 0.0);
    assert!(true_one.far_from(&again(&global, &other)) > 0.5);
    // Of other chunks there is nothing to compare.
    let fewer = Again::of(&layout(), &[0, 1], (&global, &local), "");
    assert_eq!(fewer.farthest(&opened), f64::INFINITY);
    assert_eq!(true_one.far_from(&fewer), f64::INFINITY);
}

#[test]
fn what_is_no_progress_in_the_drawn_chunks_is_refused() {
    let good = again(&weights(1, 1.0), &weights(2, 1.0)).write();
    let read = |bytes: &[u8]| Again::read(&layout(), &all(), bytes).unwrap_err();
    for bytes in [&good[..good.len() - 1], &good[..4], &[]] {
        assert!(matches!(read(bytes), BadAgain::Size { .. }));
    }
    for typical in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let bytes = [&typical.to_le_bytes()[..], &good[8..]].concat();
        assert!(
            matches!(read(&bytes), BadAgain::Typical { .. }),
            "{typical}"
        );
    }
    let mut no_number = good.clone();
    no_number[8 + CLASS_BYTES..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(read(&no_number), BadAgain::NotFinite { place: 0 });
    let mut no_text = good.clone();
    no_text[8] = 0xFF;
    assert_eq!(read(&no_text), BadAgain::Class);
    let mut behind_zeros = good.clone();
    behind_zeros[8 + CLASS_BYTES - 1] = b'a';
    assert_eq!(read(&behind_zeros), BadAgain::Class);
    // A class that is too long is cut.
    let long = "ä".repeat(CLASS_BYTES);
    let cut = Again::of(&layout(), &[], (&[], &[]), &long);
    assert_eq!(cut.class().len(), CLASS_BYTES);
}
