//! No endpoint without a sentence and its types in the document; what is at no endpoint.

use opengpu_coordinator::api::endpoint::Access;
use opengpu_coordinator::api::endpoints;

use super::support::Server;

#[tokio::test]
async fn the_document_describes_every_endpoint_with_known_types() {
    let server = Server::start().await;
    let text = reqwest::get(format!("{}/openapi.json", server.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for endpoint in endpoints() {
        let operation =
            &document["paths"][endpoint.path][endpoint.method.as_str().to_ascii_lowercase()];
        let what = format!("{} {}", endpoint.method, endpoint.path);
        assert!(
            !operation["summary"].as_str().unwrap_or_default().is_empty(),
            "{what} says nothing"
        );
        let open = operation["security"].as_array().unwrap().is_empty();
        assert_eq!(open, endpoint.access == Access::Open, "{what}");
        for name in [Some(endpoint.answer), endpoint.request]
            .into_iter()
            .flatten()
        {
            let name = name.trim_matches(['[', ']']);
            assert!(
                name.contains('/') || schemas.contains_key(name),
                "{what} names the unknown type {name}"
            );
        }
    }
    for (name, schema) in schemas {
        assert!(
            schema["properties"]
                .as_object()
                .is_some_and(|fields| !fields.is_empty()),
            "{name} is empty"
        );
    }
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_method_are_refused_in_the_apis_words() {
    let server = Server::start().await;
    let unknown = reqwest::get(format!("{}/v1/nothing", server.url))
        .await
        .unwrap();
    assert_eq!(unknown.status(), 404);
    let body: serde_json::Value = serde_json::from_str(&unknown.text().await.unwrap()).unwrap();
    assert_eq!(body["code"], "unknown_address");
    let wrong = reqwest::Client::new()
        .delete(format!("{}/v1/hello", server.url))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 405);
}

#[tokio::test]
async fn metrics_count_and_name_no_node() {
    let server = Server::start().await;
    assert_eq!(
        reqwest::get(format!("{}/readyz", server.url))
            .await
            .unwrap()
            .status(),
        200
    );
    reqwest::get(format!("{}/v1/runs/1", server.url))
        .await
        .unwrap();
    let text = server.metrics().await;
    assert!(
        text.contains("opengpu_requests_total{route=\"/v1/runs/{run}\",status=\"401\"} 1"),
        "{text}"
    );
    assert!(!text.contains("node=") && text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_taken_port_and_a_home_in_use_are_refused_with_what_mends_it() {
    let server = Server::start().await;
    let settings = |home: &std::path::Path, listen: String| opengpu_coordinator::ServeSettings {
        home: home.to_owned(),
        listen: listen.parse().unwrap(),
        database_url: None,
        enrolment: opengpu_coordinator::EnrolmentPolicy::default(),
        limits: opengpu_coordinator::LimitSettings::default(),
        trainer: None,
        extra_routes: None,
        shutdown: tokio_util::sync::CancellationToken::new(),
    };
    let refusal = |result: anyhow::Result<opengpu_coordinator::Bound>| match result {
        Ok(_) => panic!("two coordinators at once"),
        Err(error) => error.to_string(),
    };
    let same_home =
        opengpu_coordinator::serve(settings(server.home.path(), "127.0.0.1:0".into())).await;
    assert!(refusal(same_home).contains("in use"));
    let other = tempfile::tempdir().unwrap();
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let same_port = opengpu_coordinator::serve(settings(other.path(), address)).await;
    assert!(refusal(same_port).contains("--listen"));
}
