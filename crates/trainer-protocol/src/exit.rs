//! How a child ended, in words that follow "the trainer".

use std::process::ExitStatus;

/// The words.
pub(crate) fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => words(status),
        Err(error) => format!("ended, but its status could not be read ({error})"),
    }
}

#[cfg(unix)]
fn words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    let Some(signal) = status.signal() else {
        return with_status(status);
    };
    let (name, hint) = match signal {
        libc::SIGKILL => (
            "SIGKILL",
            ": by the kernel because memory ran out (then `dmesg` says so, and a smaller model, \
             batch or context mends it), or by a person",
        ),
        libc::SIGSEGV => ("SIGSEGV", ": it touched memory that is not its own"),
        libc::SIGBUS => (
            "SIGBUS",
            ": a file it had mapped was cut short, or the memory behind it ran out",
        ),
        libc::SIGABRT => ("SIGABRT", ": it gave up by itself"),
        libc::SIGILL => (
            "SIGILL",
            ": it was built for a processor with more instructions",
        ),
        libc::SIGFPE => ("SIGFPE", ": a division without a result"),
        libc::SIGTERM => ("SIGTERM", ": it was asked to end"),
        libc::SIGINT => ("SIGINT", ": it was interrupted from a terminal"),
        libc::SIGPIPE => ("SIGPIPE", ": nobody reads its output any more"),
        _ => ("", ""),
    };
    if name.is_empty() {
        format!("was killed by signal {signal}")
    } else {
        format!("was killed by signal {signal} ({name}{hint})")
    }
}

#[cfg(not(unix))]
fn words(status: ExitStatus) -> String {
    with_status(status)
}

fn with_status(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exited with status {code}"),
        None => "ended without a status".to_owned(),
    }
}
