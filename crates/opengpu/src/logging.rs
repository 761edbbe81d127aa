//! Structured logs: to standard error, JSON when it is no terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at `default` unless OPENGPU_LOG says otherwise.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env("OPENGPU_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
}
