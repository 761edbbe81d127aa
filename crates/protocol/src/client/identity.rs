//! The requests about who somebody is: keys of nodes.

use opengpu_rounds::{Hash, NodeId};
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::identity::{AddKey, KeyView};
use crate::{SigningKey, possession, signing};

impl Client {
    /// `GET /v1/keys`: the keys of the node that signs.
    pub async fn keys(&self) -> Result<Vec<KeyView>, ClientError> {
        let call = Call::get("list the keys of this node", "/v1/keys");
        self.json(&call, "list of keys").await
    }

    /// `POST /v1/keys`: a further key for `node`, which is the one that signs.
    pub async fn add_key(
        &self,
        node: NodeId,
        key: &SigningKey,
    ) -> Result<Vec<KeyView>, ClientError> {
        let request = AddKey {
            public_key: signing::public_key(key),
            proof: possession::prove(key, node),
        };
        let operation = format!("add the key {} to this node", request.public_key);
        let call = Call::json(operation, Method::POST, "/v1/keys", &request);
        self.json(&call, "list of keys").await
    }

    /// `DELETE /v1/keys/{key}`: revokes a key of the node that signs, but not its last.
    pub async fn revoke_key(&self, key: Hash) -> Result<Vec<KeyView>, ClientError> {
        let operation = format!("revoke the key {key} of this node");
        self.delete(operation, format!("/v1/keys/{key}")).await
    }

    /// `GET /v1/nodes/{node}/keys`, for the operator.
    pub async fn node_keys(&self, node: NodeId) -> Result<Vec<KeyView>, ClientError> {
        let operation = format!("list the keys of node {node}");
        let call = Call::get(operation, format!("/v1/nodes/{node}/keys"));
        self.json(&call, "list of keys").await
    }

    /// `DELETE /v1/nodes/{node}/keys/{key}`, for the operator: also the last one.
    pub async fn revoke_node_key(
        &self,
        node: NodeId,
        key: Hash,
    ) -> Result<Vec<KeyView>, ClientError> {
        let operation = format!("revoke the key {key} of node {node}");
        let path = format!("/v1/nodes/{node}/keys/{key}");
        self.delete(operation, path).await
    }

    async fn delete(&self, operation: String, path: String) -> Result<Vec<KeyView>, ClientError> {
        let call = Call {
            method: Method::DELETE,
            ..Call::get(operation, path)
        };
        self.json(&call, "list of keys").await
    }
}
