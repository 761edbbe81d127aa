//! What is attacked: every endpoint of the coordinator's own table, and every page.

use opengpu_coordinator::api::endpoint::{Access, BodyRule};
use opengpu_coordinator::api::endpoints;
use opengpu_rounds::{Hash, NodeId, RunId, WorkerId};

/// The pages' routes have no table, so their addresses are read where they are made.
const PAGES: &str = include_str!("../../../crates/portal/src/routes.rs");

/// An address, and what it takes.
#[derive(Clone, Debug)]
pub struct Target {
    pub method: String,
    pub path: String,
    pub access: Access,
    pub body: BodyRule,
    pub is_page: bool,
}

/// All, with the names of what an honest node has in the places of parameters.
pub fn targets(run: RunId, node: NodeId, worker: WorkerId) -> Vec<Target> {
    let fill = |path: &str| {
        let parts = path.split('/').map(|part| match part {
            "{hash}" | "{key}" => Hash([1; 32]).to_string(),
            "{run}" => run.to_string(),
            "{node}" => node.to_string(),
            "{worker}" => worker.to_string(),
            part if part.starts_with('{') => "1".to_owned(),
            part => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join("/")
    };
    let endpoints = endpoints().into_iter().map(|endpoint| Target {
        method: endpoint.method.as_str().to_owned(),
        path: fill(endpoint.path),
        access: endpoint.access,
        body: endpoint.body,
        is_page: false,
    });
    let pages = pages().into_iter().map(|page| Target {
        method: "GET".to_owned(),
        path: fill(page),
        access: Access::Open,
        body: BodyRule::Empty,
        is_page: true,
    });
    endpoints.chain(pages).collect()
}

fn pages() -> Vec<&'static str> {
    let routes = PAGES.split(".route(").skip(1);
    let address = |route: &'static str| route.split('"').nth(1);
    routes.filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_and_every_page_is_a_target() {
        let targets = targets(RunId(7), NodeId(8), WorkerId(9));
        assert!(targets.len() > endpoints().len());
        let has = |method: &str, path: &str| {
            let mut targets = targets.iter();
            targets.any(|target| target.method == method && target.path == path)
        };
        assert!(has("GET", "/") && has("GET", "/runs/7/events"));
        assert!(has("POST", "/v1/hello") && has("POST", "/v1/workers/9/report"));
        assert!(targets.iter().all(|target| !target.path.contains('{')));
    }
}
