//! What a general compressor makes of the held-out text: a figure that anyone can check
//! (`xz -9e`) to hold the model's bits per byte against.

use std::io::Write;

use anyhow::{Context, Result};

/// Bits per byte of `text` after `xz -9e`, container included.
pub fn xz_bits_per_byte(text: &[u8]) -> Result<f64> {
    const PRESET: u32 = 9;
    const EXTREME: u32 = 1 << 31;
    let stream =
        liblzma::stream::Stream::new_easy_encoder(PRESET | EXTREME, liblzma::stream::Check::Crc64)
            .context("cannot start the xz encoder")?;
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(text)?;
    let compressed = encoder.finish()?;
    Ok(compressed.len() as f64 * 8.0 / text.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_compresses_and_noise_does_not() {
        let repeated = vec![b'a'; 100_000];
        assert!(xz_bits_per_byte(&repeated).expect("compresses") < 0.1);
        let noise: Vec<u8> = (0..8192u32)
            .flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..8].to_vec())
            .collect();
        assert!(xz_bits_per_byte(&noise).expect("compresses") > 7.9);
    }
}
