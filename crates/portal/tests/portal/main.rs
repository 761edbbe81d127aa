//! The portal as a browser meets it: addresses, headers, parts, events.
#![expect(clippy::unwrap_used)]

mod events;
mod pages;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures::future::{BoxFuture, FutureExt};
use opengpu_portal::{Source, router};
use opengpu_protocol::wire::RunView;
use opengpu_rounds::RunId;
use tokio::sync::watch;
use tower::ServiceExt;

/// Runs that a test sets and changes.
struct Fleet {
    runs: Mutex<Vec<RunView>>,
    changes: Mutex<Option<watch::Sender<u64>>>,
    ended: watch::Receiver<u64>,
    stopping: watch::Sender<bool>,
}

impl Fleet {
    fn of(runs: Vec<RunView>) -> Arc<Self> {
        let (sender, ended) = watch::channel(0);
        Arc::new(Self {
            runs: Mutex::new(runs),
            changes: Mutex::new(Some(sender)),
            ended,
            stopping: watch::Sender::new(false),
        })
    }

    fn change(&self, change: impl FnOnce(&mut Vec<RunView>)) {
        change(&mut self.runs.lock().unwrap());
        if let Some(sender) = &*self.changes.lock().unwrap() {
            sender.send_modify(|number| *number += 1);
        }
    }

    /// The server begins to shut down; nothing is dropped yet.
    fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Nobody can tell of changes any more.
    fn end(&self) {
        self.changes.lock().unwrap().take();
    }
}

impl Source for Fleet {
    fn runs(&self) -> BoxFuture<'_, Vec<RunView>> {
        let runs = self.runs.lock().unwrap().clone();
        async { runs }.boxed()
    }

    fn run(&self, run: RunId) -> BoxFuture<'_, Option<RunView>> {
        let found = self
            .runs
            .lock()
            .unwrap()
            .iter()
            .find(|view| view.run == run)
            .cloned();
        async { found }.boxed()
    }

    fn stopping(&self) -> BoxFuture<'static, ()> {
        let mut stopping = self.stopping.subscribe();
        async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
        .boxed()
    }

    fn changes(&self, _run: RunId) -> watch::Receiver<u64> {
        let sender = self.changes.lock().unwrap();
        sender
            .as_ref()
            .map_or_else(|| self.ended.clone(), watch::Sender::subscribe)
    }
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

async fn get(portal: &Router, path: &str) -> Answer {
    ask(portal, Request::get(path).body(Body::empty()).unwrap()).await
}

/// As htmx asks: for a part.
async fn get_part(portal: &Router, path: &str) -> Answer {
    ask(
        portal,
        Request::get(path)
            .header("HX-Request", "true")
            .body(Body::empty())
            .unwrap(),
    )
    .await
}

async fn ask(portal: &Router, request: Request<Body>) -> Answer {
    let response = portal.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 4 << 20).await.unwrap();
    let body = String::from_utf8(bytes.to_vec()).unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

fn portal(fleet: &Arc<Fleet>) -> Router {
    router(Arc::clone(fleet) as Arc<dyn Source>)
}
