//! When a process should stop: Ctrl-C, a termination signal, or its parent's end.

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

/// Resolves on Ctrl-C or a termination signal.
pub async fn requested() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A token that is cancelled when the process should stop.
pub fn token(until_stdin_closes: bool) -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        if until_stdin_closes {
            tokio::select! {
                () = requested() => {}
                () = stdin_closed() => {}
            }
        } else {
            requested().await;
        }
        cancel.cancel();
    });
    token
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut sink = [0u8; 256];
    while !matches!(stdin.read(&mut sink).await, Ok(0) | Err(_)) {}
}
