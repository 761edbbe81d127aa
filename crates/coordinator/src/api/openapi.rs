//! The OpenAPI document, made from the endpoint table and from sample values of the wire
//! types: a field that is renamed in the code is renamed here.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::endpoint::{Access, BodyRule, Endpoint};
use super::samples;

/// The document for these endpoints.
pub fn document(endpoints: &[Endpoint]) -> Result<OpenApi, serde_json::Error> {
    let mut paths = Map::new();
    for endpoint in endpoints {
        let item = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        item[endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint);
    }
    let schemas: Map<String, Value> = samples::all()
        .into_iter()
        .map(|(name, sample)| (name.to_owned(), described(&sample)))
        .collect();
    serde_json::from_value(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenGPU coordinator",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Enrolment, work, bytes and runs. Nodes sign their requests with \
                Ed25519 over method, path and query, BLAKE3 of the body, time, counter and \
                node; the operator sends a bearer token. Ids are integers below 2^53.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "node": {
                    "type": "apiKey", "in": "header", "name": "opengpu-signature",
                    "description": "with opengpu-node, opengpu-time and opengpu-counter; opengpu-key names the key",
                },
                "operator": { "type": "http", "scheme": "bearer" },
            },
        },
    }))
}

fn operation(endpoint: &Endpoint) -> Value {
    let in_path = endpoint
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let schema = match name {
                "hash" | "key" | "name" | "action" => json!({ "type": "string" }),
                _ => json!({ "type": "integer" }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        });
    let in_query = endpoint.query.iter().map(|name| {
        let kind = match *name {
            "download" => "boolean",
            "code" => "string",
            _ => "integer",
        };
        json!({ "name": name, "in": "query", "required": false, "schema": { "type": kind } })
    });
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let error = json!({ "$ref": "#/components/schemas/ErrorBody" });
    let mut operation = json!({
        "summary": endpoint.summary,
        "operationId": operation_id(endpoint),
        "parameters": parameters,
        "security": security(endpoint.access),
        "responses": {
            "200": { "description": "done", "content": content(endpoint.answer) },
            "default": {
                "description": "refused",
                "content": { "application/json": { "schema": error } },
            },
        },
    });
    if let Some(request) = endpoint.request {
        operation["requestBody"] = json!({ "required": true, "content": content(request) });
    }
    if let BodyRule::Json(limit) = endpoint.body {
        operation["requestBody"]["description"] = json!(format!("at most {limit} bytes"));
    }
    operation
}

fn operation_id(endpoint: &Endpoint) -> String {
    let path: Vec<&str> = endpoint
        .path
        .split('/')
        .filter(|part| !part.is_empty() && *part != "v1")
        .map(|part| part.trim_matches(['{', '}']))
        .collect();
    format!(
        "{}_{}",
        endpoint.method.as_str().to_ascii_lowercase(),
        path.join("_").replace('.', "_")
    )
}

fn security(access: Access) -> Value {
    match access {
        Access::Open => json!([]),
        Access::Node => json!([{ "node": [] }]),
        Access::Operator => json!([{ "operator": [] }]),
        Access::NodeOrOperator => json!([{ "node": [] }, { "operator": [] }]),
    }
}

/// A media type as it is, a list of a type (`[RunView]`), or a type.
fn content(name: &str) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    if name.contains('/') {
        return json!({ name: {} });
    }
    let schema = match name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        Some(item) => json!({ "type": "array", "items": reference(item) }),
        None => reference(name),
    };
    json!({ "application/json": { "schema": schema } })
}

/// The shape of a sample as a schema.
fn described(sample: &Value) -> Value {
    match sample {
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => json!({
            "type": "array",
            "items": items.first().map_or_else(|| json!({}), described),
        }),
        Value::Object(fields) => {
            let properties: Map<String, Value> = fields
                .iter()
                .map(|(name, value)| (name.clone(), described(value)))
                .collect();
            json!({ "type": "object", "properties": properties, "example": sample })
        }
    }
}
