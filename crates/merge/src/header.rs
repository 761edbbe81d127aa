//! The first 24 bytes of a payload: what it is and which model it is for.

use crate::{Codec, DecodeError, Layout};

/// Bytes of a header.
pub(crate) const BYTES: usize = 24;

const MAGIC: [u8; 4] = *b"OGPU";
const VERSION: u8 = 1;

/// Appends the header.
pub(crate) fn write(codec: Codec, layout: &Layout, bytes: &mut Vec<u8>) {
    let (number, k) = codec.to_wire();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, number]);
    bytes.extend_from_slice(&k.to_le_bytes());
    bytes.extend_from_slice(&(layout.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&layout.fingerprint());
}

/// Reads the header and refuses what is for another model.
pub(crate) fn read(layout: &Layout, bytes: &[u8]) -> Result<Codec, DecodeError> {
    let Some(header) = bytes.first_chunk::<BYTES>() else {
        return Err(DecodeError::TooShort {
            needed: BYTES,
            got: bytes.len(),
        });
    };
    if header[..4] != MAGIC {
        return Err(DecodeError::Magic);
    }
    if header[4] != VERSION {
        return Err(DecodeError::Version { found: header[4] });
    }
    let (number, k) = (header[5], u16::from_le_bytes([header[6], header[7]]));
    let codec = Codec::from_wire(number, k).ok_or(DecodeError::UnknownCodec { number, k })?;
    let mut length = [0; 8];
    length.copy_from_slice(&header[8..16]);
    let (expected, found) = (layout.len() as u64, u64::from_le_bytes(length));
    if expected != found || header[16..] != layout.fingerprint() {
        return Err(DecodeError::WrongLayout { expected, found });
    }
    Ok(codec)
}
