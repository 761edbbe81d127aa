//! A server on a port of the system's choosing that checks signatures as a coordinator does.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use opengpu_protocol::signing::{SignatureRefusal, SignedHeaders, public_key};
use opengpu_protocol::wire::ErrorBody;
use opengpu_protocol::{ReplayWindow, SigningKey};
use opengpu_rounds::Hash;

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

/// Serves until the test's runtime ends; returns the address.
pub async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

pub fn refuse(status: StatusCode, code: &str) -> Response {
    let body = ErrorBody {
        code: code.to_owned(),
        message: format!("{code} it is"),
        measured: None,
        allowed: None,
    };
    (status, axum::Json(body)).into_response()
}

/// Admits signed requests as a coordinator does, with a clock and a floor of its own.
#[derive(Clone)]
pub struct Gate {
    pub unix_ms: u64,
    pub window: Arc<Mutex<ReplayWindow>>,
}

impl Gate {
    pub fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<SignedHeaders, Box<Response>> {
        let check = || {
            let signed = SignedHeaders::read(|name| headers.get(name)?.to_str().ok())?;
            signed.check_clock(self.unix_ms)?;
            let path = uri.path_and_query().unwrap().as_str();
            signed.verify(&public_key(&key()), method.as_str(), path, &Hash::of(body))?;
            self.window.lock().unwrap().admit(signed.counter)?;
            Ok(signed)
        };
        check().map_err(|refusal: SignatureRefusal| {
            let mut response = refuse(StatusCode::UNAUTHORIZED, refusal.code());
            if let Some((name, value)) = refusal.mending_header() {
                response.headers_mut().insert(name, value.into());
            }
            Box::new(response)
        })
    }
}

/// Takes a request apart.
pub async fn parts(request: Request) -> (Method, Uri, HeaderMap, Bytes) {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    (parts.method, parts.uri, parts.headers, body)
}
