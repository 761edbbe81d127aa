//! The four classes of characters that GPT-2's pre-tokenizer knows.
//!
//! The tables come from `regex-syntax`, which the `tokenizers` library's own expression is
//! compiled with, so that both agree on every character of its version of Unicode.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// A class of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `\s`
    Space,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// Everything else.
    Other,
}

struct Tables {
    ascii: [Class; 128],
    /// Sorted, disjoint, inclusive.
    ranges: Vec<(char, char, Class)>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut ranges = Vec::new();
    for (name, class) in [
        (r"\s", Class::Space),
        (r"\p{L}", Class::Letter),
        (r"\p{N}", Class::Number),
    ] {
        let parsed = regex_syntax::parse(name).expect("a constant expression");
        if let HirKind::Class(HirClass::Unicode(set)) = parsed.kind() {
            let found = set.ranges().iter();
            ranges.extend(found.map(|range| (range.start(), range.end(), class)));
        }
    }
    ranges.sort_unstable_by_key(|range| range.0);
    let ascii = std::array::from_fn(|code| look_up(&ranges, code as u8 as char));
    Tables { ascii, ranges }
});

fn look_up(ranges: &[(char, char, Class)], c: char) -> Class {
    let after = ranges.partition_point(|range| range.0 <= c);
    match after.checked_sub(1).map(|at| ranges[at]) {
        Some((_, end, class)) if c <= end => class,
        _ => Class::Other,
    }
}

/// Looks classes up; made once per text, so that the inner loop pays no initialisation check.
#[derive(Clone, Copy)]
pub(crate) struct Classes(&'static Tables);

impl Classes {
    pub(crate) fn new() -> Self {
        Self(&TABLES)
    }

    pub(crate) fn of(self, c: char) -> Class {
        match self.0.ascii.get(c as usize) {
            Some(class) => *class,
            None => look_up(&self.0.ranges, c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_classed_as_unicode_says() {
        let classes = Classes::new();
        for (c, class) in [
            (' ', Class::Space),
            ('\n', Class::Space),
            ('\u{85}', Class::Space),
            ('\u{3000}', Class::Space),
            ('a', Class::Letter),
            ('é', Class::Letter),
            ('水', Class::Letter),
            ('𝒳', Class::Letter),
            ('7', Class::Number),
            ('Ⅳ', Class::Number),
            ('²', Class::Number),
            ('_', Class::Other),
            ('\u{301}', Class::Other),
            ('😀', Class::Other),
            ('\u{200b}', Class::Other),
        ] {
            assert_eq!(classes.of(c), class, "{c:?}");
        }
    }
}
