//! What holds of every run file that is accepted, wherever it came from.

use opengpu_merge::Codec;
use opengpu_protocol::RunSpec;
use opengpu_rounds::RoundSettings;

/// Looks at a run file that may have been refused.
///
/// # Panics
/// When it was not refused and breaks what the rest of the program takes for granted.
pub fn check_spec(spec: &RunSpec) {
    if spec.check().is_err() {
        return;
    }
    let written = spec.to_toml().expect("what was accepted can be written");
    let again = RunSpec::from_toml(&written).expect("what was written is accepted");
    assert_eq!(&again, spec, "a run file changed on its way");

    // A coordinator makes a folder of it.
    for name in [&spec.name, &spec.dataset] {
        assert!(!name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']));
    }
    // What merges and what decides accept it too, or the run would start and then stand still.
    for codec in [spec.sync.up, spec.sync.down] {
        assert!(Codec::from(codec).is_valid());
    }
    spec.outer_settings()
        .check()
        .expect("what merges accepts the settings");
    let round = RoundSettings {
        blocks_per_epoch: 1,
        ..spec.round.clone()
    };
    assert_eq!(round.problem(), None);
    assert!(
        spec.block_sequences
            .is_multiple_of(spec.inner.batch_sequences)
    );
    for progress in [0.0, 0.5, 1.0] {
        let rate = spec.inner.rate_at(progress);
        assert!(rate.is_finite() && rate >= 0.0, "a learning rate of {rate}");
    }
    if let Some(model) = &spec.model {
        let lengths = model
            .tensors()
            .into_iter()
            .map(|tensor| tensor.len() as u128);
        assert!(lengths.sum::<u128>() <= 1 << 40);
    }
}
