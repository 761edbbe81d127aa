//! `opengpu key`: the keys that this machine signs with.

use clap::Subcommand;

#[derive(Subcommand, Clone)]
pub enum KeyCommand {
    /// All keys of this machine's node, with those that were revoked
    #[command(
        after_help = "Example:\n  opengpu key list --json | jq '.[] | select(.revoked | not)'"
    )]
    List,
    /// Sign with a new key from now on, and have the old one revoked; stop the agent first
    #[command(
        after_help = "Example:\n  opengpu key rotate\n\nIf it is cut short, run it again: it finishes what was begun."
    )]
    Rotate,
    /// Have a key refused for ever, but never the last one
    #[command(after_help = "Example:\n  opengpu key revoke 4f1c2a2b")]
    Revoke {
        /// The first digits of the public key, as `list` shows them
        key: String,
    },
}
