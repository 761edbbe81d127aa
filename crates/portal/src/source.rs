//! Where the pages get their runs from.

use futures::future::BoxFuture;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::RunId;
use tokio::sync::watch;

/// What the coordinator offers to the pages: runs to read and word of their changes.
pub trait Source: Send + Sync + 'static {
    /// All runs, newest first.
    fn runs(&self) -> BoxFuture<'_, Vec<RunView>>;

    /// One run, if there is such a run.
    fn run(&self, run: RunId) -> BoxFuture<'_, Option<RunView>>;

    /// A value that changes whenever something in the run's view changed that a watcher should
    /// see at once. Event streams end when its sender is dropped, so that a server that shuts
    /// down does not wait for its watchers. For an unknown run any receiver will do.
    fn changes(&self, run: RunId) -> watch::Receiver<u64>;
}
