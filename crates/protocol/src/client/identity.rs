//! The requests about who somebody is: keys of nodes, accounts, claims.

use opengpu_rounds::{Hash, NodeId};
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::identity::{
    AccountRequest, AccountView, AddKey, Claim, ClaimCode, KeyView, TeamRequest,
};
use crate::wire::NodeView;
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

    /// `POST /v1/claim-codes`: a code with which the node that signs can be claimed.
    pub async fn claim_code(&self) -> Result<ClaimCode, ClientError> {
        let call = Call {
            method: Method::POST,
            ..Call::get("ask for a code to claim this node with", "/v1/claim-codes")
        };
        self.json(&call, "code").await
    }

    /// `POST /v1/claims`, for the operator: the node with this code belongs to the account.
    pub async fn claim(&self, code: &str, account: &str) -> Result<NodeView, ClientError> {
        let request = Claim {
            code: code.to_owned(),
            account: account.to_owned(),
        };
        let operation = format!("claim a node for the account {account:?}");
        // A code is good once: the second attempt would find it used.
        let call = Call::json(operation, Method::POST, "/v1/claims", &request).once();
        self.json(&call, "node").await
    }

    /// `GET /v1/accounts`, for the operator.
    pub async fn accounts(&self) -> Result<Vec<AccountView>, ClientError> {
        let call = Call::get("list the accounts", "/v1/accounts");
        self.json(&call, "list of accounts").await
    }

    /// `POST /v1/accounts`, for the operator.
    pub async fn create_account(
        &self,
        name: &str,
        team: Option<&str>,
    ) -> Result<AccountView, ClientError> {
        let request = AccountRequest {
            name: name.to_owned(),
            team: team.map(str::to_owned),
        };
        let operation = format!("make the account {name:?}");
        let call = Call::json(operation, Method::POST, "/v1/accounts", &request).once();
        self.json(&call, "account").await
    }

    /// `PUT /v1/accounts/{account}/team`, for the operator.
    pub async fn set_team(
        &self,
        account: u64,
        team: Option<&str>,
    ) -> Result<AccountView, ClientError> {
        let request = TeamRequest {
            team: team.map(str::to_owned),
        };
        let operation = format!("say which team the account {account} is of");
        let path = format!("/v1/accounts/{account}/team");
        let call = Call::json(operation, Method::PUT, path, &request);
        self.json(&call, "account").await
    }

    /// `DELETE /v1/accounts/{account}`, for the operator: its nodes stay and are nobody's.
    pub async fn erase_account(&self, account: u64) -> Result<(), ClientError> {
        let call = Call {
            method: Method::DELETE,
            ..Call::get(
                format!("erase the account {account}"),
                format!("/v1/accounts/{account}"),
            )
        };
        self.done(&call).await
    }

    async fn delete(&self, operation: String, path: String) -> Result<Vec<KeyView>, ClientError> {
        let call = Call {
            method: Method::DELETE,
            ..Call::get(operation, path)
        };
        self.json(&call, "list of keys").await
    }
}
