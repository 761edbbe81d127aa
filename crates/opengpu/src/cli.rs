//! The command line as types: what can be asked, with its help. No logic.

mod account;
mod key;
mod node;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use opengpu_coordinator::EnrolmentPolicy;
use opengpu_protocol::ledger::SumsBy;

pub use account::AccountCommand;
pub use key::KeyCommand;
pub use node::{Judged, MakeToken, NodeCommand, NodeTarget, Token, TokenCommand};

/// Train language models together on machines you own.
#[derive(Parser)]
#[command(
    name = "opengpu",
    version,
    about,
    after_help = "Start here:\n  opengpu up               train a small model on this machine, everything included\n  opengpu up --help        what can be changed about it\n\nExit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone)]
pub struct Global {
    /// Folder of this installation; nothing is written outside it but shared memory
    #[arg(long, global = true, env = "OPENGPU_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Everything on this machine: coordinator, page, nodes, and a run that trains
    Up(Up),
    /// Coordinator and portal
    Serve(Serve),
    /// Contribute this machine to a coordinator
    Join(Join),
    /// What this machine's agent is doing
    #[command(
        after_help = "Examples:\n  opengpu status\n  opengpu status --json | jq '.devices[].run'\n\nIn the home of an `opengpu up` it tells of each of its nodes (in JSON: a list)."
    )]
    Status,
    /// Training runs
    #[command(
        subcommand,
        after_help = "Examples:\n  opengpu run submit examples/shakespeare-nano.toml\n  opengpu run list\n  opengpu run watch 1\n  opengpu run export 1 --out ./my-model"
    )]
    Run(RunCommand),
    /// Tokenised corpora
    #[command(
        subcommand,
        after_help = "Examples:\n  opengpu dataset add notes notes.txt\n  opengpu dataset list\n  opengpu dataset remove notes"
    )]
    Dataset(DatasetCommand),
    /// Machines that take part
    #[command(
        subcommand,
        after_help = "Examples:\n  opengpu node list\n  opengpu node token --label attic\n  opengpu node approve 2\n  opengpu node drain 2"
    )]
    Node(NodeCommand),
    /// Owners of nodes, as the operator knows them
    #[command(
        subcommand,
        after_help = "Examples:\n  opengpu account create alice --team physics\n  opengpu account list\n  opengpu node claim K7Q0-M1TB --account alice"
    )]
    Account(AccountCommand),
    /// A code with which the operator gives this machine's node to your account
    #[command(
        after_help = "Examples:\n  opengpu claim\n  opengpu claim --json | jq -r .code\n\nIt is good once, for 15 minutes; the agent may run meanwhile."
    )]
    Claim,
    /// How this machine's node stands, and what its owner says to that
    #[command(
        after_help = "Examples:\n  opengpu appeal                                       what is held against this node, and why\n  opengpu appeal --text 'The memory was bad; it is replaced.'\n\nEach change can be appealed once. The agent may run meanwhile, and need not."
    )]
    Appeal {
        /// What the operator should know, at most 2000 characters
        #[arg(long)]
        text: Option<String>,
        /// Against which change [default: the newest that is held against the node]
        #[arg(long, value_name = "N", requires = "text")]
        change: Option<u64>,
    },
    /// The keys that this machine signs with
    #[command(
        subcommand,
        after_help = "Examples:\n  opengpu key list\n  opengpu key rotate\n  opengpu key revoke 4f1c2a2b"
    )]
    Key(KeyCommand),
    /// What is remembered of accepted work, and its proofs
    #[command(
        subcommand,
        after_help = "Examples:\n  opengpu ledger show 1\n  opengpu ledger sums --by account\n  opengpu ledger export 1 --out ./ledger-1\n  opengpu ledger verify ./ledger-1 --receipts ~/.local/share/opengpu/node/receipts/1"
    )]
    Ledger(LedgerCommand),
    /// Sample text from an exported checkpoint
    Generate(Generate),
    /// A fleet in simulated time: the real state machine, invented machines and faults
    Simulate(Simulate),
    /// The training application, spoken to over standard input and output
    #[command(hide = true)]
    Trainer,
}

#[derive(Args, Clone)]
#[command(
    after_help = "Examples:\n  opengpu up                                  train the nano preset on the bundled Shakespeare\n  opengpu up --data notes.txt --rounds 30     train on a text of yours\n  opengpu up --data corpus/ --preset micro    a folder of .txt and .jsonl files, a larger model\n  opengpu up --exit --json                    end when the run ends, print the result as JSON\n\nA second `up` on the same home goes on with an unfinished run."
)]
pub struct Up {
    /// UTF-8 text files, JSON lines with a `text` field, or folders of them [default: bundled corpus]
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// Model preset
    #[arg(long, default_value = "nano", value_name = "NAME")]
    pub preset: String,
    /// Local nodes, one trainer each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Outer steps to train [default: 45]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: Option<u64>,
    /// Address of the coordinator and its page; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:8470", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// End when the run has ended instead of serving on
    #[arg(long)]
    pub exit: bool,
}

#[derive(Args, Clone)]
#[command(
    after_help = "Examples:\n  opengpu serve\n  opengpu serve --listen 0.0.0.0:8470 --home /srv/opengpu\n  opengpu serve --database postgres://opengpu@localhost/opengpu\n  opengpu serve --enrolment approval               anyone may join, `opengpu node approve` lets them work\n  opengpu serve --config /etc/opengpu.toml\n  opengpu serve --json | jq -r .address            one line of JSON once it serves\n\nThe operator's token is in HOME/operator.token. HOME/join.token is for your own machines: who enrols with it is trusted.\nWhere others can connect, a terminal gets a line with a token for 16 machines within 7 days, which are on probation."
)]
pub struct Serve {
    /// Settings in TOML: `listen`, `database` and `enrolment`, as below, and `limits` [default: HOME/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on; port 0 lets the system choose [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Database address [default: HOME/opengpu.db]
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Whom it takes in: invite (who has a token), open (anyone), or approval (anyone, who
    /// works once approved) [default: invite]
    #[arg(long, value_name = "POLICY")]
    pub enrolment: Option<EnrolmentPolicy>,
    /// Stop when standard input closes (for a parent process that may be killed)
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

#[derive(Args, Clone)]
#[command(
    after_help = "Examples:\n  opengpu join http://127.0.0.1:8470 --token 4f1c…\n  opengpu join http://127.0.0.1:8470                 once enrolled, the token is not needed again\n  opengpu join URL --threads 1 --name attic-pc       one thread, a name the operator will see\n  opengpu join URL --memory 4GiB                     at most 4 GiB for a training step\n\nWith --json it prints, when it stops, what `opengpu status --json` prints."
)]
pub struct Join {
    /// Address of the coordinator
    pub url: String,
    /// Enrolment token, needed the first time unless the coordinator admits without
    #[arg(long, env = "OPENGPU_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// What to call this machine [default: its host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Threads of the trainer [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// What trains: auto (a GPU that works, else the CPU), cpu, gpu, or gpu:1 for the second
    /// one; vulkan, metal, dx12, cuda or rocm (cuda:1) insist on an interface too. GPUs need a
    /// program built with the feature `gpu`, and two of these with `cuda` or `rocm`
    #[arg(long, default_value = "auto", value_parser = device)]
    pub device: String,
    /// Memory of a training step, for example 8GiB or 500MB: larger batches are worked on in
    /// parts [default: most of what is free]
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    pub memory: Option<u64>,
    /// Train this many times slower than the machine could
    #[arg(long, default_value_t = 1.0)]
    pub slowdown: f64,
    /// Stop when standard input closes (for a parent process that may be killed)
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

/// Where the coordinator is, for commands that talk to one.
#[derive(Args, Clone)]
pub struct Remote {
    /// Address of the coordinator [default: the one that serves from this home]
    #[arg(long, value_name = "URL", env = "OPENGPU_URL")]
    pub url: Option<String>,
    /// Operator token [default: HOME/operator.token]
    #[arg(long, env = "OPENGPU_OPERATOR_TOKEN", hide_env_values = true)]
    pub operator_token: Option<String>,
}

#[derive(Subcommand, Clone)]
pub enum RunCommand {
    /// Submit a run file and start it
    #[command(
        after_help = "Examples:\n  opengpu run submit examples/shakespeare-nano.toml\n  opengpu run submit my-run.toml --json | jq .run"
    )]
    Submit {
        /// The run file (TOML)
        file: PathBuf,
        #[command(flatten)]
        remote: Remote,
    },
    /// All runs
    #[command(after_help = "Example:\n  opengpu run list --json | jq '.[].phase'")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// One run in full
    #[command(after_help = "Example:\n  opengpu run show 1")]
    Show(RunTarget),
    /// Follow a run until it ends
    #[command(after_help = "Example:\n  opengpu run watch 1")]
    Watch(RunTarget),
    /// Give out no new work
    #[command(after_help = "Example:\n  opengpu run pause 1")]
    Pause(RunTarget),
    /// Go on after a pause
    #[command(after_help = "Example:\n  opengpu run resume 1")]
    Resume(RunTarget),
    /// End a run early, keeping what it learned
    #[command(after_help = "Example:\n  opengpu run stop 1")]
    Stop(RunTarget),
    /// Go back to a checkpointed revision, in a new lineage
    #[command(
        after_help = "Example:\n  opengpu run rollback 1 --to 0.20       lineage 0, revision 20"
    )]
    Rollback {
        #[command(flatten)]
        target: RunTarget,
        /// Revision to go back to, as LINEAGE.NUMBER or NUMBER of the live lineage
        #[arg(long, value_name = "REV")]
        to: String,
    },
    /// Write the newest revision as a Hugging Face folder
    #[command(after_help = "Example:\n  opengpu run export 1 --out ./my-model")]
    Export {
        #[command(flatten)]
        target: RunTarget,
        /// Where to copy the folder [default: leave it under HOME/exports]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Args, Clone)]
pub struct RunTarget {
    /// The run's number
    pub id: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Subcommand, Clone)]
pub enum DatasetCommand {
    /// Tokenise text and hand it to the coordinator
    #[command(
        after_help = "Examples:\n  opengpu dataset add notes notes.txt\n  opengpu dataset add wiki corpus/ --vocab 8192"
    )]
    Add {
        /// What to call it
        name: String,
        /// UTF-8 text files, JSON lines with a `text` field, or folders of them
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Tokens in the vocabulary
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(257..=1_000_000))]
        vocab: u32,
        #[command(flatten)]
        remote: Remote,
    },
    /// All datasets
    #[command(after_help = "Example:\n  opengpu dataset list")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// One dataset in full
    #[command(after_help = "Example:\n  opengpu dataset show shakespeare --json")]
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Forget a dataset that no run needs
    #[command(after_help = "Example:\n  opengpu dataset remove notes")]
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Subcommand, Clone)]
pub enum LedgerCommand {
    /// The signed head of a run's ledger, and the key that verifies it
    #[command(after_help = "Example:\n  opengpu ledger show 1")]
    Show(RunTarget),
    /// Fetch a run's ledger into a folder, verified; again: it must go on the one that is there
    #[command(after_help = "Example:\n  opengpu ledger export 1 --out ./ledger-1")]
    Export {
        #[command(flatten)]
        target: RunTarget,
        /// Folder for ledger.jsonl, ledger.head and ledger.key
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Verify an export, offline: its lines, its head, and that it goes on what was seen before
    #[command(
        after_help = "Examples:\n  opengpu ledger verify ./ledger-1\n  opengpu ledger verify ./ledger-1 --head last-month.head\n  opengpu ledger verify ./ledger-1 --key ~/.local/share/opengpu/node/receipts/1/ledger.key --receipts ~/.local/share/opengpu/node/receipts/1\n\nThe key in the folder came with the export. Who has a key from the day of joining gives that one."
    )]
    Verify {
        /// Folder of an export
        folder: PathBuf,
        /// Key to verify with, as NAME+ID+KEY or a file [default: ledger.key of the folder]
        #[arg(long)]
        key: Option<String>,
        /// Heads that were saved before
        #[arg(long = "head", value_name = "FILE")]
        heads: Vec<PathBuf>,
        /// Receipts that were saved before, or folders of them
        #[arg(long, num_args = 1.., value_name = "FILE")]
        receipts: Vec<PathBuf>,
    },
    /// What the ledgers come to by node, account, team, run or day (UTC)
    #[command(
        after_help = "Examples:\n  opengpu ledger sums --by team\n  opengpu ledger sums --by day --run 1 --json\n\nA correction counts on the day on which it was made."
    )]
    Sums {
        /// What to sum by: node, account, team, run or day
        #[arg(long, default_value = "node")]
        by: SumsBy,
        /// Of one run only
        #[arg(long, value_name = "NUMBER")]
        run: Option<u64>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make all sums again from the ledgers, and say whether they were right
    #[command(after_help = "Example:\n  opengpu ledger rebuild")]
    Rebuild {
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Args, Clone)]
#[command(
    after_help = "Examples:\n  opengpu generate --model ./my-model --prompt 'To be, or'\n  opengpu generate --model ./my-model --prompt 'KING.' --max-tokens 200 --temperature 0"
)]
pub struct Generate {
    /// A Hugging Face folder of a Llama-family model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Text to go on from
    #[arg(long)]
    pub prompt: String,
    /// Tokens to add
    #[arg(long, default_value_t = 100)]
    pub max_tokens: usize,
    /// 0: always the most likely token
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Decides every draw
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Args, Clone)]
#[command(
    after_help = "Examples:\n  opengpu simulate\n  opengpu simulate --workers 64 --rounds 500 --seed 7\n  opengpu simulate --json | jq .utilisation"
)]
pub struct Simulate {
    /// Machines
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub workers: u32,
    /// Rounds to reach
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rounds: u64,
    /// Decides every machine and every fault
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// No faults: every machine works and every message arrives
    #[arg(long)]
    pub calm: bool,
}

/// A device's name, refused here rather than by the trainer.
fn device(text: &str) -> Result<String, opengpu_trainer::device::DeviceError> {
    text.parse::<opengpu_trainer::device::Wish>()?;
    Ok(text.to_owned())
}
