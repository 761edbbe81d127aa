//! The short form of the hostile network: what must hold on any machine, however slow. How
//! long honest requests take is measured by the binary `hostile`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use opengpu_bench::hostile::{attack_all, memory_bound};
use opengpu_coordinator::ConnectionSettings;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_nodes_are_answered_on_a_hostile_network_that_gets_nothing_but_refusals() {
    // Fewer places than the attacker opens connections, so that the bound is near.
    let settings = ConnectionSettings {
        total: 1_024.try_into().unwrap(),
        per_address: 512.try_into().unwrap(),
        ..ConnectionSettings::default()
    };
    let bound = memory_bound(&settings);
    // An honest request that fails, or a directive stream that is cut, fails this.
    let outcome = attack_all(Duration::from_secs(2), settings).await.unwrap();
    for row in &outcome.rows {
        let (name, tally) = (row.kind.name(), &row.tally);
        println!(
            "{name}: {tally:?}, {} honest requests answered, {:.2} times as long as usual",
            row.answered,
            row.median.as_secs_f64() / outcome.usual.as_secs_f64()
        );
        assert_eq!(tally.wrong(), None, "{name}");
        assert!(tally.sent() > 0, "{name} did nothing");
        assert!(row.answered > 0, "no honest request was answered: {name}");
    }
    println!(
        "{} bytes before, {} in the end, {bound} allowed",
        outcome.usual_peak_bytes, outcome.peak_bytes
    );
    assert!(
        outcome.peak_bytes <= bound,
        "the coordinator held {} bytes, {} before the attacks; {bound} are allowed",
        outcome.peak_bytes,
        outcome.usual_peak_bytes
    );
    assert!(outcome.told.is_empty(), "logged: {:?}", outcome.told);
}
