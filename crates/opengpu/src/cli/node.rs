//! `opengpu node`: what an operator can ask about machines and how they are admitted.

use clap::{Args, Subcommand};

use super::Remote;
use crate::duration::{self, Life};

#[derive(Subcommand, Clone)]
pub enum NodeCommand {
    /// All nodes
    #[command(after_help = "Example:\n  opengpu node list")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// One node in full
    #[command(after_help = "Example:\n  opengpu node show 2 --json")]
    Show(NodeTarget),
    /// Let in a node that waits for approval; to refuse it, ban it
    #[command(after_help = "Examples:\n  opengpu node approve 2\n  opengpu node ban 2")]
    Approve(NodeTarget),
    /// Let a node finish and give it nothing new
    #[command(after_help = "Example:\n  opengpu node drain 2")]
    Drain(NodeTarget),
    /// Take a node's work no more until it was looked at
    #[command(
        after_help = "Example:\n  opengpu node quarantine 2 --reason 'its machine is being repaired'"
    )]
    Quarantine(Judged),
    /// Shut a node out, with all its keys
    #[command(after_help = "Example:\n  opengpu node ban 2 --reason 'it sends made-up updates'")]
    Ban(Judged),
    /// Answer what is held against a node: it stays, or it was wrong, and the node has its standing
    /// and its credit again
    #[command(
        after_help = "Examples:\n  opengpu node review 2 --uphold --note 'twice in a week'\n  opengpu node review 2 --reverse --note 'our auditor had another driver'\n  opengpu node review 2 --change 17 --reverse\n\nIt answers the appeal that is open for longest, else the newest change that is held against\nthe node; `opengpu node show` lists them."
    )]
    Review {
        #[command(flatten)]
        target: NodeTarget,
        /// Which change, as `show` numbers them
        #[arg(long, value_name = "N")]
        change: Option<u64>,
        /// It stays
        #[arg(long, conflicts_with = "reverse", required_unless_present = "reverse")]
        uphold: bool,
        /// It was wrong
        #[arg(long)]
        reverse: bool,
        /// What the node's owner is told
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
    },
    /// Hold nothing against a node any more, or undo a drain
    #[command(after_help = "Example:\n  opengpu node restore 2")]
    Restore(NodeTarget),
    /// Trust a node as your own: its updates need not pass audits before they are merged
    #[command(after_help = "Example:\n  opengpu node vouch 2")]
    Vouch(NodeTarget),
    /// Take `vouch` back
    #[command(after_help = "Example:\n  opengpu node distrust 2")]
    Distrust(NodeTarget),
    /// Give the node that showed this code to an account
    #[command(after_help = "Example:\n  opengpu node claim K7Q0-M1TB --account alice")]
    Claim {
        /// The code that `opengpu claim` shows on the node's machine
        code: String,
        /// Name of the account
        #[arg(long, value_name = "NAME")]
        account: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// The keys that a node signs with, and those that were revoked
    #[command(after_help = "Example:\n  opengpu node keys 2")]
    Keys(NodeTarget),
    /// Have a key of a node refused for ever, also its last; its open stream ends at once
    #[command(after_help = "Example:\n  opengpu node revoke-key 2 4f1c2a2b")]
    RevokeKey {
        #[command(flatten)]
        target: NodeTarget,
        /// The first digits of the public key, as `keys` shows them
        key: String,
    },
    /// Make an enrolment token; list and revoke those there are
    Token(Token),
}

#[derive(Args, Clone)]
pub struct NodeTarget {
    /// The node's number
    pub id: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Args, Clone)]
pub struct Judged {
    #[command(flatten)]
    pub target: NodeTarget,
    /// Why, for the node's owner
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Args, Clone)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  opengpu node token                             one machine, within 7 days\n  opengpu node token --label lab --uses 20 --expires 30d\n  opengpu node token --json | jq -r .token\n  opengpu node token list\n  opengpu node token revoke 4f1c2a\n\nThe token is shown once; what is kept is its hash."
)]
pub struct Token {
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
    #[command(flatten)]
    pub make: MakeToken,
}

#[derive(Args, Clone)]
pub struct MakeToken {
    /// What it is for
    #[arg(long, default_value = "")]
    pub label: String,
    /// How many machines may enrol with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: u32,
    /// After how long it admits nobody any more: 7d, 12h, 30m or never
    #[arg(long, default_value = "7d", value_name = "TIME", value_parser = duration::parse)]
    pub expires: Life,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Subcommand, Clone)]
pub enum TokenCommand {
    /// All enrolment tokens, each by its hash
    #[command(
        after_help = "Examples:\n  opengpu node token list\n  opengpu node token list --json | jq '.[] | select(.state == \"open\")'"
    )]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Take a token back; machines that it admitted stay
    #[command(after_help = "Example:\n  opengpu node token revoke 4f1c2a")]
    Revoke {
        /// The first digits of the token's hash, as `list` shows them
        hash: String,
        #[command(flatten)]
        remote: Remote,
    },
}
