//! The binary: reads the command line and starts what it asks for.

mod cli;
mod commands;
mod duration;
mod home;
mod local;
mod logging;
mod memory;
mod open_files;
mod output;
mod progress;
mod remote;
mod shutdown;
mod size;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use cli::{Cli, Command};
use home::Home;

/// Training allocates and frees large buffers at every step, which the system's allocator
/// gives back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads may take that a command has left behind.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !output::reader_is_gone(panic.payload()) {
            report(panic);
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(|| start(cli))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // Whatever the command held was given back while it unwound.
        Err(panic) if output::reader_is_gone(&*panic) => ExitCode::SUCCESS,
        Err(panic) => panic::resume_unwind(panic),
        Ok(Err(error)) => {
            if json {
                let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
                eprintln!("{}", serde_json::json!({ "error": chain }));
            } else {
                eprintln!("opengpu: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<()> {
    let trains = matches!(cli.command, Command::Trainer | Command::Generate(_));
    memory::allow_huge_pages(trains);
    // The trainer is no asynchronous program, and must not share its cores with one.
    if matches!(cli.command, Command::Trainer) {
        logging::start("info");
        return opengpu_trainer::run();
    }
    let threads = match cli.command {
        Command::Serve(_) => 4,
        _ => 2,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(dispatch(cli));
    // A thread that still reads standard input must not keep a process that has failed.
    runtime.shutdown_timeout(LAST_WAIT);
    ended
}

async fn dispatch(cli: Cli) -> Result<()> {
    let json = cli.global.json;
    let log_level = match cli.command {
        Command::Serve(_) | Command::Join(_) => "info",
        _ => "warn",
    };
    logging::start(log_level);
    if let Command::Generate(args) = cli.command {
        return commands::generate::run(json, args).await;
    }
    if let Command::Simulate(args) = cli.command {
        return commands::simulate::run(json, &args);
    }
    let home = Home::open(cli.global.home.as_deref())?;
    match cli.command {
        Command::Up(args) => commands::up::run(&home, json, args).await,
        Command::Serve(args) => commands::serve::run(&home, json, args).await,
        Command::Join(args) => commands::join::run(&home, json, args).await,
        Command::Status => commands::status::run(&home, json),
        Command::Run(command) => commands::run::run(&home, json, command).await,
        Command::Dataset(command) => commands::dataset::run(&home, json, command).await,
        Command::Node(command) => commands::node::run(&home, json, command).await,
        Command::Account(command) => commands::account::run(&home, json, command).await,
        Command::Claim => commands::account::claim(&home, json).await,
        Command::Appeal { text, change } => {
            commands::standing::run(&home, json, text, change).await
        }
        Command::Key(command) => commands::key::run(&home, json, command).await,
        Command::Ledger(command) => commands::ledger::run(&home, json, command).await,
        Command::Generate(_) | Command::Simulate(_) | Command::Trainer => Ok(()),
    }
}
