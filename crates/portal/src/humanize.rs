//! Numbers as people read them. The space before a unit never breaks.

use opengpu_protocol::wire::NO_WEIGHTS;
use opengpu_rounds::Hash;

const SPACE: char = '\u{a0}';

/// `1.23 MB`, in powers of 1000.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes}{SPACE}B");
    }
    let (value, prefix) = scaled(bytes as f64);
    format!("{value}{SPACE}{prefix}B")
}

/// `34.2k`, `1.23M`.
pub fn count(count: u64) -> String {
    if count < 1000 {
        return count.to_string();
    }
    let (value, prefix) = scaled(count as f64);
    format!("{value}{prefix}")
}

/// `34.2k`, of something a second.
pub fn rate(rate: f64) -> String {
    if !rate.is_finite() || rate <= 0.0 {
        return "–".into();
    }
    let (value, prefix) = scaled(rate);
    format!("{value}{prefix}")
}

/// `34.2k tok/s`.
pub fn token_rate(tokens_per_second: f64) -> String {
    match rate(tokens_per_second) {
        none if none == "–" => none,
        rate => format!("{rate}{SPACE}tok/s"),
    }
}

/// Three significant digits at most: `0.0312`, `3.14`, `220`.
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    // 9.996 rounds to 10.0, which has a digit more before the point.
    let magnitude = magnitude + i32::from(value.abs() >= 9.995 * 10f64.powi(magnitude));
    format!("{value:.*}", (2 - magnitude).clamp(0, 9) as usize)
}

/// A loss, with the digits in which rounds differ.
pub fn loss(loss: f64) -> String {
    if loss.is_finite() {
        format!("{loss:.3}")
    } else {
        "–".into()
    }
}

/// `8.4 s`, `2 min 5 s`, `3 h 12 min`, `2 d 4 h`.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let pair = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{big}{SPACE}{big_unit}")
        } else {
            format!("{big}{SPACE}{big_unit} {small}{SPACE}{small_unit}")
        }
    };
    match seconds {
        0..10 => format!("{:.1}{SPACE}s", milliseconds as f64 / 1000.0),
        10..60 => format!("{seconds}{SPACE}s"),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A rough length of time yet to come: `12 s`, `6 min`, `3 h 10 min`.
pub fn about(milliseconds: u64) -> String {
    let seconds = milliseconds.div_ceil(1000);
    match seconds {
        0..60 => format!("{}{SPACE}s", seconds.div_ceil(5) * 5),
        60..3600 => format!("{}{SPACE}min", (seconds + 30) / 60),
        _ => duration(seconds / 600 * 600_000),
    }
}

/// `now`, `12 s ago`.
pub fn ago(milliseconds: u64) -> String {
    // A report is due every two seconds; what is merely between two should not flicker.
    if milliseconds < 5000 {
        "now".into()
    } else {
        format!("{} ago", duration(milliseconds))
    }
}

/// The first digits of a hash, enough to compare by eye.
pub fn short_hash(hash: Hash) -> String {
    hash.to_string()[..10].to_string()
}

/// A digest, unless it stands for weights that are not there yet: that one is all zeros.
pub fn of_weights(digest: Hash) -> Option<Hash> {
    (digest != NO_WEIGHTS).then_some(digest)
}

fn scaled(value: f64) -> (String, &'static str) {
    let mut scaled = value;
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        // 999.5 would be written as 1000 of the smaller unit.
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        prefix = next;
    }
    (significant(scaled), prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: String) -> String {
        text.replace(SPACE, " ")
    }

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (34_210, "34.2 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_234_567, "1.23 MB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (input, expected) in cases {
            assert_eq!(plain(bytes(input)), expected, "{input}");
        }
    }

    #[test]
    fn counts_and_rates_are_short() {
        assert_eq!(count(999), "999");
        assert_eq!(count(1_999_999), "2.00M");
        assert_eq!(plain(token_rate(34_210.0)), "34.2k tok/s");
        assert_eq!(plain(token_rate(512.4)), "512 tok/s");
        assert_eq!(token_rate(f64::NAN), "–");
        assert_eq!(token_rate(0.0), "–");
    }

    #[test]
    fn small_numbers_keep_three_digits() {
        assert_eq!(significant(0.03123), "0.0312");
        assert_eq!(significant(9.999), "10.0");
        assert_eq!(significant(999.9), "1000");
        assert_eq!(significant(220.4), "220");
        assert_eq!(significant(f64::INFINITY), "–");
    }

    #[test]
    fn times_read_as_a_person_says_them() {
        assert_eq!(plain(duration(8_400)), "8.4 s");
        assert_eq!(plain(duration(59_999)), "59 s");
        assert_eq!(plain(duration(125_000)), "2 min 5 s");
        assert_eq!(plain(duration(3 * 3_600_000)), "3 h");
        assert_eq!(plain(duration(100_000_000)), "1 d 3 h");
        assert_eq!(plain(about(11_200)), "15 s");
        assert_eq!(plain(about(349_000)), "6 min");
        assert_eq!(plain(about(2 * 3_600_000 + 1_300_000)), "2 h 20 min");
        assert_eq!(ago(900), "now");
        assert_eq!(plain(ago(12_000)), "12 s ago");
    }
}
