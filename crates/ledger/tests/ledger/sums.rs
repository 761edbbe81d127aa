//! Sums equal the ledger, however they are made.

use std::collections::HashMap;

use opengpu_ledger::{Day, Entry, ExportCheck, Sums, Totals, verify_export};
use opengpu_rounds::NodeId;
use proptest::prelude::*;
use serde_json::Value;

use crate::values::{
    Ledger, MORNING, any_ledger, config, story, story_with_trainings_again, verifier_key,
};

fn of(entries: &[Entry]) -> Sums {
    let mut sums = Sums::new();
    entries.iter().for_each(|entry| sums.add(entry));
    sums
}

/// The same from the export's JSON, without the crate's types.
fn recounted(export: &str) -> HashMap<(u64, u64), Totals> {
    let mut rows: HashMap<(u64, u64), Totals> = HashMap::new();
    for line in export.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let day = entry["at_unix_ms"].as_u64().unwrap() / 86_400_000;
        let row = rows.entry((entry["node"].as_u64().unwrap(), day));
        let row = row.or_default();
        let mut credit = |count: fn(&mut Totals) -> &mut u64| {
            row.tokens += i128::from(entry["tokens"].as_i64().unwrap());
            row.megaflops += i128::from(entry["megaflops"].as_i64().unwrap());
            *count(row) += 1;
        };
        match (entry["type"].as_str().unwrap(), entry["outcome"].as_str()) {
            ("accepted", None) => credit(|row| &mut row.accepted),
            ("corrected", None) => credit(|row| &mut row.corrections),
            ("trained_again", None) => credit(|row| &mut row.trained_again),
            ("rejected", None) => row.rejected += 1,
            ("audited", Some("passed")) => row.audits_passed += 1,
            ("audited", Some("failed")) => row.audits_failed += 1,
            ("audited", Some("undecided")) => row.audits_undecided += 1,
            other => panic!("{other:?}"),
        }
    }
    rows
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn added_one_by_one_rebuilt_from_the_export_and_recounted_they_are_equal(
        entries in any_ledger(60),
    ) {
        let incremental = of(&entries);
        let ledger = Ledger::of(entries);
        let size = ledger.lines.len() as u64;
        let (export, head) = (ledger.export(size), ledger.signed(size));
        let check = ExportCheck::new(&verifier_key(), head.as_bytes(), &[]).unwrap();
        let rebuilt = verify_export(check, export.as_bytes()).unwrap().sums;
        prop_assert_eq!(&rebuilt, &incremental);
        let rows: HashMap<(u64, u64), Totals> = incremental
            .rows()
            .map(|(node, day, totals)| ((node.0, day.0), *totals))
            .collect();
        prop_assert_eq!(rows, recounted(&export));
    }

    #[test]
    fn the_sums_of_parts_merge_in_any_grouping(
        entries in any_ledger(60),
        first in 0.0..1.0f64,
        second in 0.0..1.0f64,
    ) {
        let one = (entries.len() as f64 * first.min(second)) as usize;
        let two = (entries.len() as f64 * first.max(second)) as usize;
        let [a, b, c] = [&entries[..one], &entries[one..two], &entries[two..]].map(of);
        let joined = |left: &Sums, right: &Sums| {
            let mut sums = left.clone();
            sums.merge(right);
            sums
        };
        let whole = of(&entries);
        prop_assert_eq!(&joined(&joined(&a, &b), &c), &whole);
        prop_assert_eq!(&joined(&a, &joined(&b, &c)), &whole);
        prop_assert_eq!(&joined(&joined(&c, &b), &a), &whole);
    }

    #[test]
    fn every_grouping_comes_to_the_sum_of_the_run(entries in any_ledger(60), teams in 1..5u64) {
        let sums = of(&entries);
        let run = sums.run();
        let mut naive = Totals::default();
        entries.iter().for_each(|entry| naive.add(entry));
        prop_assert_eq!(run, naive);
        let mut together = Totals::default();
        for totals in sums.grouped(|node, _| node.0 % teams).values() {
            together.merge(totals);
        }
        prop_assert_eq!(together, run);
    }
}

#[test]
fn days_are_written_as_in_a_calendar() {
    for (unix_ms, written) in [
        (0, "1970-01-01"),
        (951_782_399_999, "2000-02-28"),
        (951_782_400_000, "2000-02-29"),
        (951_868_800_000, "2000-03-01"),
        (1_735_603_200_000, "2024-12-31"),
        (1_735_689_600_000, "2025-01-01"),
        (4_107_542_400_000, "2100-03-01"),
        (4_107_542_399_999, "2100-02-28"),
        (MORNING, "2026-11-21"),
    ] {
        assert_eq!(Day::of(unix_ms).to_string(), written);
    }
    // The latest day that there is.
    assert_eq!(Day(u64::MAX).to_string(), "50505469855535079-02-21");
}

#[test]
fn training_again_is_credited_to_who_did_it_and_is_no_accepted_update() {
    let (before, after) = (of(&story()), of(&story_with_trainings_again()));
    let node = |sums: &Sums, node| sums.grouped(|node, _| node)[&NodeId(node)];
    for number in [1, 2] {
        let (before, after) = (node(&before, number), node(&after, number));
        let more = Totals {
            tokens: before.tokens + 16_386,
            megaflops: before.megaflops + 2_457_602,
            trained_again: 1,
            ..before
        };
        assert_eq!(after, more);
        assert_eq!(after.entries(), before.entries() + 1);
    }
    assert_eq!(node(&before, 3), node(&after, 3), "the audited node");
}

#[test]
fn a_correction_counts_on_its_own_day_and_mends_the_run() {
    let sums = of(&story());
    let taken_back = Day::of(MORNING + 100_000_000);
    let on_that_day: Vec<_> = sums
        .rows()
        .filter(|(node, day, _)| (*node, *day) == (NodeId(3), taken_back))
        .collect();
    assert_eq!(on_that_day.len(), 1);
    assert_eq!(on_that_day[0].2.tokens, -16_386);
    let run = sums.run();
    assert_eq!(
        run.tokens,
        (0..6).map(|n| 16_384 + n).sum::<i128>() - 16_386
    );
    assert_eq!((run.accepted, run.rejected, run.corrections), (6, 2, 1));
    assert_eq!((run.audits_passed, run.audits_failed), (1, 1));
}
