//! Durations as people write them, in options and in tables.

use std::fmt;

/// How long something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(
    /// Seconds; None: for ever.
    pub Option<u64>,
);

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Reads `7d`, `12h`, `30m`, `45s` or `never`.
pub fn parse(text: &str) -> Result<Life, String> {
    if text == "never" {
        return Ok(Life(None));
    }
    let read = || {
        let (unit, seconds) = UNITS.iter().find(|unit| text.ends_with(unit.0))?;
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(*seconds).filter(|seconds| *seconds > 0)
    };
    read().map(|seconds| Life(Some(seconds))).ok_or_else(|| {
        "a duration is a number above 0 and one of d, h, m and s, for example 7d, or `never`"
            .to_owned()
    })
}

impl fmt::Display for Life {
    /// The largest unit of which it has two, without a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seconds) = self.0 else {
            return f.write_str("never");
        };
        let fits = |unit: &&(&str, u64)| seconds >= 2 * unit.1 || unit.1 == 1;
        match UNITS.iter().find(fits) {
            Some((unit, size)) => write!(f, "{}{unit}", seconds / size),
            None => write!(f, "{seconds}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_as_people_write_them() {
        assert_eq!(parse("7d"), Ok(Life(Some(604_800))));
        assert_eq!(parse("90m"), Ok(Life(Some(5_400))));
        assert_eq!(parse("never"), Ok(Life(None)));
        for wrong in [
            "",
            "7",
            "d",
            "0d",
            "-1d",
            "1.5h",
            "7 d",
            "99999999999999999999d",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Life(Some(604_800)).to_string(), "7d");
        assert_eq!(Life(Some(604_799)).to_string(), "6d");
        assert_eq!(Life(Some(7_199)).to_string(), "119m");
        assert_eq!(Life(Some(0)).to_string(), "0s");
        assert_eq!(Life(None).to_string(), "never");
    }
}
