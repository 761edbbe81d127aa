//! `opengpu join`: the agent on this machine.

use anyhow::{Context, Result, bail};
use opengpu_agent::{AgentSettings, DeviceSettings};

use crate::{cli::Join, commands::status, home::Home, shutdown};

/// Runs the agent until it is told to stop. With `json` it tells at the end what it did, as
/// `status` does.
pub async fn run(home: &Home, json: bool, args: Join) -> Result<()> {
    if !(1.0..=1000.0).contains(&args.slowdown) {
        bail!("--slowdown is {}; it must be from 1 to 1000", args.slowdown);
    }
    let device = DeviceSettings {
        threads: args.threads.map(|threads| threads as usize),
        memory_bytes: args.memory,
        device: Some(args.device),
        slowdown: args.slowdown,
        ..DeviceSettings::this_program().context("cannot find this program's own file")?
    };
    let name = args
        .name
        .or_else(|| sysinfo::System::host_name().ok())
        .unwrap_or_else(|| "unnamed".into());
    let settings = AgentSettings {
        home: home.path().to_path_buf(),
        server: Some(args.url),
        token: args.token,
        name,
        devices: vec![device],
        shutdown: shutdown::token(args.until_stdin_closes),
    };
    opengpu_agent::run(settings).await?;
    if json {
        status::run(home, json)?;
    }
    Ok(())
}
