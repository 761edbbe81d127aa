//! The name of a revision's weights.

/// BLAKE3 of the weights as little-endian float32, one after the other.
pub fn digest(weights: &[f32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    if cfg!(target_endian = "little") {
        hasher.update(bytemuck::cast_slice(weights));
    } else {
        for block in weights.chunks(4096) {
            let bytes: Vec<u8> = block
                .iter()
                .flat_map(|weight| weight.to_le_bytes())
                .collect();
            hasher.update(&bytes);
        }
    }
    *hasher.finalize().as_bytes()
}
