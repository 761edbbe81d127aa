//! A TCP relay that counts the bytes it carries: what really goes over a node's link, with
//! headers, signatures, heartbeats and framing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the node.
    pub up: u64,
    /// To the node.
    pub down: u64,
}

/// A relay on an address of its own.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
}

impl Relay {
    /// Starts carrying connections to `target`, until the runtime ends.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let shared = counters.clone();
        tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                let counters = shared.clone();
                tokio::spawn(async move {
                    let Ok(outside) = TcpStream::connect(target).await else {
                        return;
                    };
                    let _ = inside.set_nodelay(true);
                    let _ = outside.set_nodelay(true);
                    let (from_node, to_node) = inside.into_split();
                    let (from_server, to_server) = outside.into_split();
                    tokio::join!(
                        carry(from_node, to_server, &counters.up),
                        carry(from_server, to_node, &counters.down)
                    );
                });
            }
        });
        Ok(Self { address, counters })
    }

    /// What was carried so far.
    pub fn carried(&self) -> Carried {
        Carried {
            up: self.counters.up.load(Ordering::Relaxed),
            down: self.counters.down.load(Ordering::Relaxed),
        }
    }
}

/// Copies one direction to its end, which is passed on.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
