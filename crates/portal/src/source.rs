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
    /// see at once. Event streams end when its sender is dropped. For an unknown run any
    /// receiver will do.
    fn changes(&self, run: RunId) -> watch::Receiver<u64>;

    /// Done when the server begins to shut down: event streams end then, so that it does not
    /// wait for its watchers. A stream holds the source, and through it whatever the source
    /// holds, so that senders alone may never be dropped before the streams are.
    fn stopping(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}
