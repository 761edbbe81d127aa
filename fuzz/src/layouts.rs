//! A few models for payloads to be for.

use opengpu_merge::Layout;

/// Lengths of the tensors of each: one weight; a tensor without any, and odd lengths; one chunk
/// to the full; one with a weight more; chunks of several lengths; more chunks than a parallel
/// task takes; no weight at all.
pub const LAYOUTS: [&[usize]; 7] = [
    &[1],
    &[5, 0, 3],
    &[4096],
    &[4097],
    &[64, 4100, 7],
    &[1; 66],
    &[],
];

/// One of them.
pub fn layout(choice: u8) -> Layout {
    let lengths = LAYOUTS[usize::from(choice) % LAYOUTS.len()];
    Layout::new(lengths.iter().copied())
}

/// A payload whose header names this layout, whatever it named: the fingerprint is a hash,
/// which no fuzzer finds, and what lies behind it is worth trying for every layout.
pub fn with_header(layout: &Layout, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    if let Some(place) = payload.get_mut(8..24) {
        place[..8].copy_from_slice(&(layout.len() as u64).to_le_bytes());
        place[8..].copy_from_slice(&layout.fingerprint());
    }
    payload
}
