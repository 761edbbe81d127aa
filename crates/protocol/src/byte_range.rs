//! Which part of a blob a request wants: its `Range` header.

use std::ops::Range;

/// `bytes=FIRST-` or `bytes=FIRST-LAST` or `bytes=-COUNT` (RFC 9110, section 14.1.2), one
/// range only, as a half-open range inside a blob of `bytes` bytes that is not empty. None:
/// it is of another form, or no part of the blob.
pub fn byte_range(header: &str, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", count) => bytes.saturating_sub(number(count)?)..bytes,
        (first, "") => number(first)?..bytes,
        (first, last) => number(first)?..number(last)?.saturating_add(1).min(bytes),
    };
    (range.start < range.end).then_some(range)
}

/// Digits alone: what reads numbers elsewhere takes a `+` before them.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::byte_range;

    #[test]
    fn a_range_lies_inside_the_blob_or_is_refused() {
        assert_eq!(byte_range("bytes=0-", 10), Some(0..10));
        assert_eq!(byte_range("bytes=4-5", 10), Some(4..6));
        assert_eq!(byte_range("bytes=4-99", 10), Some(4..10));
        assert_eq!(byte_range("bytes=-3", 10), Some(7..10));
        for wrong in [
            "bytes=10-",
            "bytes=5-4",
            "bytes=-",
            "bytes=-0",
            "bytes=a-b",
            "bytes=+4-5",
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=0-18446744073709551616",
        ] {
            assert_eq!(byte_range(wrong, 10), None, "{wrong}");
        }
    }
}
