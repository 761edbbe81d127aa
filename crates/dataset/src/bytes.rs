//! Bytes as the characters that a byte-level vocabulary is written in.
//!
//! GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for the
//! characters from U+0100 on, so that every token is visible text.

use std::sync::LazyLock;

static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100..;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable {
            byte as u32
        } else {
            next.next().unwrap_or(0)
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
});

/// The character of each byte.
pub(crate) fn chars() -> &'static [char; 256] {
    &CHARS
}

/// The bytes of `text` in those characters.
pub(crate) fn to_chars(text: &str) -> String {
    let chars = chars();
    text.bytes().map(|byte| chars[usize::from(byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_characters_are_the_librarys_alphabet() {
        let ours: HashSet<char> = chars().iter().copied().collect();
        let library = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(ours, library.into_iter().collect());
        assert_eq!(to_chars("a b\n"), "aĠbĊ");
    }
}
