//! Sizes as people write them.

/// Units, longest first, so that `GiB` is not taken for `B`.
const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// Bytes of a size like `8GiB`, `1.5 GB` or `4096`.
pub fn parse(text: &str) -> Result<u64, String> {
    let small = text.trim().to_lowercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((small.strip_suffix(name)?, *unit)))
        .unwrap_or((&small, 1));
    let bytes = number
        .trim()
        .parse::<f64>()
        .ok()
        .map(|number| number * unit as f64);
    match bytes {
        Some(bytes) if (1.0..=1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err(format!(
            "`{text}` is no size; write for example 8GiB, 500MB or 1.5GB"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units_and_others_refused() {
        assert_eq!(parse("8GiB"), Ok(8 << 30));
        assert_eq!(parse("1.5 gb"), Ok(1_500_000_000));
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("12 KiB"), Ok(12 << 10));
        for bad in ["", "GiB", "-1MB", "0", "8 apples", "nan", "1e30"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
