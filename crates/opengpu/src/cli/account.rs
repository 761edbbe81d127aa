//! `opengpu account`: whose nodes are whose.

use clap::Subcommand;

use super::Remote;

#[derive(Subcommand, Clone)]
pub enum AccountCommand {
    /// Make an account
    #[command(
        after_help = "Examples:\n  opengpu account create alice\n  opengpu account create bob --team physics"
    )]
    Create {
        /// What its owner is called here
        name: String,
        /// Team that it is summed with
        #[arg(long, value_name = "NAME")]
        team: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// All accounts and their nodes
    #[command(after_help = "Example:\n  opengpu account list --json | jq '.[].nodes'")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Say which team an account is of, or that it is of none
    #[command(
        after_help = "Examples:\n  opengpu account team alice physics\n  opengpu account team alice          of no team any more"
    )]
    Team {
        /// The account's name
        name: String,
        /// The team's name
        team: Option<String>,
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
