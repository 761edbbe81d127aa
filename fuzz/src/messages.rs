//! JSON messages: the first line of an input names the type, the rest is the message.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Seed, within};

/// A type of message: its name, and what reads a message of it.
pub type Kind = (&'static str, fn(&[u8]));

/// Tries an input on the type that it names.
pub fn attempt_message(kinds: &[Kind], bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (name, message) = (&bytes[..end], &bytes[end + 1..]);
    if let Some((_, read)) = kinds.iter().find(|kind| kind.0.as_bytes() == name) {
        read(message);
    }
}

/// Reads a message and, if it is one, what it was written as again.
pub fn read<T: Serialize + DeserializeOwned>(json: &[u8]) -> Option<T> {
    // What a reader holds is a few times the text: a number of two bytes takes up to 32 while
    // it is not known which variant of an enum it belongs to, in lists that grow by doubling.
    let most = 64 * json.len() + 4096;
    let message: T = within(most, || serde_json::from_slice(json)).ok()?;
    let written = serde_json::to_string(&message).expect("what was read can be written");
    match serde_json::from_str::<T>(&written) {
        Ok(again) => {
            let again = serde_json::to_string(&again).expect("what was read can be written");
            assert_eq!(written, again, "a message changed on its way");
        }
        // A number too large for float32 reads as infinite, for which JSON has no word. Whoever
        // uses one looks at its range; the rest is read as it was meant.
        Err(error)
            if error
                .to_string()
                .starts_with("invalid type: null, expected f32") => {}
        Err(error) => panic!("what was written does not read: {error}\n{written}"),
    }
    Some(message)
}

/// The same, for a message that nothing else is to be said about.
pub fn reads<T: Serialize + DeserializeOwned>(json: &[u8]) {
    let _ = read::<T>(json);
}

/// A message as an input.
pub fn seed<T: Serialize>(name: &str, message: &T) -> Seed {
    let json = serde_json::to_string(message).expect("a message can be written");
    let digest = opengpu_rounds::Hash::of(json.as_bytes()).to_string();
    (
        format!("{name}-{}", &digest[..8]),
        format!("{name}\n{json}").into_bytes(),
    )
}

/// Whether all first inputs are of a type that is tried, and there is one of each.
///
/// # Panics
/// When it isn't so.
pub fn check_seeds(kinds: &[Kind], seeds: &[Seed]) {
    let is_of = |seed: &Seed, name: &str| seed.1.starts_with(format!("{name}\n").as_bytes());
    for seed in seeds {
        let known = kinds.iter().any(|kind| is_of(seed, kind.0));
        assert!(known, "{} is of a type that is not tried", seed.0);
    }
    for (name, _) in kinds {
        let begun = seeds.iter().any(|seed| is_of(seed, name));
        assert!(begun, "there is no first input of {name}");
    }
}
