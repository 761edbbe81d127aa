//! Tasks that the server waits for when it stops.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

/// Counts tasks by the clones of a sender that they hold.
#[derive(Debug)]
pub struct Tasks {
    alive: Mutex<Option<mpsc::Sender<()>>>,
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Tasks {
    /// None yet.
    pub fn new() -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            alive: Mutex::new(Some(alive)),
            ended: tokio::sync::Mutex::new(ended),
        }
    }

    /// Starts a task, unless the server is stopping.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self
            .alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(alive) = alive {
            tokio::spawn(async move {
                task.await;
                drop(alive);
            });
        }
    }

    /// Starts no more, and waits for those that run.
    pub async fn finish(&self) {
        self.alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Nothing is ever sent: this ends when the last sender is gone.
        self.ended.lock().await.recv().await;
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}
