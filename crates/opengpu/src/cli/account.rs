//! `opengpu account`: whose nodes are whose.

use clap::Subcommand;

use super::Remote;

#[derive(Subcommand, Clone)]
pub enum AccountCommand {
    /// Make an account
    #[command(after_help = "Example:\n  opengpu account create alice")]
    Create {
        /// What its owner is called here
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// All accounts and their nodes
    #[command(after_help = "Example:\n  opengpu account list --json | jq '.[].nodes'")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Erase an account; its nodes stay and belong to nobody
    #[command(after_help = "Example:\n  opengpu account remove alice")]
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}
