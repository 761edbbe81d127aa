//! Cutting text in the words inside which byte pairs are merged.
//!
//! The words are those of GPT-2's expression
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! which `tokenizers`' `ByteLevel` uses; a test compares the two on random text. Written out
//! by hand it is some twenty times faster than the expression with its look-ahead, so that
//! a corpus is tokenised before a person notices.

use crate::classes::{Class, Classes};

/// The words of a text; joined they are the text.
pub(crate) struct Words<'a> {
    rest: &'a str,
    classes: Classes,
}

impl<'a> Words<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        Self {
            rest: text,
            classes: Classes::new(),
        }
    }

    /// Bytes of the longest prefix of `text` whose characters are of that class.
    fn run(&self, text: &str, class: Class) -> usize {
        text.char_indices()
            .find(|&(_, c)| self.classes.of(c) != class)
            .map_or(text.len(), |(at, _)| at)
    }

    /// Length in bytes of the first word of `text`, which is not empty.
    fn first(&self, text: &str, first: char) -> usize {
        if first == '\'' {
            let endings = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
            if let Some(found) = endings.iter().find(|ending| text.starts_with(**ending)) {
                return found.len();
            }
        }
        let class = self.classes.of(first);
        if class != Class::Space {
            return self.run(text, class);
        }
        // A blank belongs to the word behind it, but only one.
        if first == ' ' {
            let behind = &text[1..];
            match behind.chars().next().map(|c| self.classes.of(c)) {
                None | Some(Class::Space) => (),
                Some(class) => return 1 + self.run(behind, class),
            }
        }
        let spaces = self.run(text, Class::Space);
        if spaces == text.len() {
            return spaces;
        }
        // Something follows: the last white space goes to it, unless it is the only one.
        let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
        if spaces == last {
            spaces
        } else {
            spaces - last
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = self.rest.chars().next()?;
        let (word, rest) = self.rest.split_at(self.first(self.rest, first));
        self.rest = rest;
        Some(word)
    }
}

/// The last place where `text` may be cut so that the words of both sides are the words of
/// the whole: before white space that follows something else. No word reaches across it, and
/// what stands before it has no say in the words behind.
pub(crate) fn last_cut(text: &str) -> Option<usize> {
    let classes = Classes::new();
    let mut space_at = None;
    for (at, c) in text.char_indices().rev() {
        if classes.of(c) == Class::Space {
            space_at = Some(at);
        } else if space_at.is_some() {
            return space_at;
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn words_of_the_library(text: &str) -> Vec<String> {
        let mut text = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true)
            .pre_tokenize(&mut text)
            .unwrap();
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .collect()
    }

    fn words_as_the_library_writes_them(text: &str) -> Vec<String> {
        Words::of(text).map(crate::bytes::to_chars).collect()
    }

    /// Text in which the rules bite: much white space, apostrophes, several scripts.
    fn text() -> impl Strategy<Value = String> {
        let parts = prop_oneof![
            prop::sample::select(vec![
                " ",
                "  ",
                "\n",
                "\n\n",
                "\t",
                "\r\n",
                "\u{a0}",
                "\u{3000}",
                "'",
                "'s",
                "'ll",
                "'re",
                "'ve",
                "'S",
                "a",
                "Ab",
                "7",
                "42",
                "²",
                "-",
                "...",
                "é",
                "e\u{301}",
                "水",
                "😀",
                "\u{85}",
                "\u{200b}",
                "_",
                "<|endoftext|>",
            ])
            .prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn words_are_those_of_the_tokenizers_library(text in text()) {
            prop_assert_eq!(words_as_the_library_writes_them(&text), words_of_the_library(&text));
        }

        #[test]
        fn cutting_at_a_cut_changes_no_word(text in text()) {
            if let Some(cut) = last_cut(&text) {
                let (left, right) = text.split_at(cut);
                let cut: Vec<&str> = Words::of(left).chain(Words::of(right)).collect();
                prop_assert_eq!(cut, Words::of(&text).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_character_of_unicode_makes_the_words_that_the_library_makes() {
        for start in (0..0x11_0000u32).step_by(64) {
            let mut text = String::new();
            for c in (start..start + 64).filter_map(char::from_u32) {
                text.extend(['a', c, ' ', c, '1']);
            }
            assert_eq!(
                words_as_the_library_writes_them(&text),
                words_of_the_library(&text),
                "block {start:x}"
            );
        }
    }
}
