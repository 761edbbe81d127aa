//! The requests about how a node stands: its own, and the operator's.

use opengpu_rounds::NodeId;
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::standing::{AppealRequest, ReviewRequest, StandingView};
use crate::wire::NodeView;

impl Client {
    /// `GET /v1/standing`: how the node that signs stands.
    pub async fn own_standing(&self) -> Result<StandingView, ClientError> {
        let call = Call::get("ask how this node stands", "/v1/standing");
        self.json(&call, "standing").await
    }

    /// `POST /v1/appeals`: the owner of the node that signs has something to say.
    pub async fn appeal(&self, appeal: &AppealRequest) -> Result<StandingView, ClientError> {
        let call = Call::json("appeal", Method::POST, "/v1/appeals", appeal);
        self.json(&call.once(), "standing").await
    }

    /// `GET /v1/nodes/{node}/standing`, for the operator.
    pub async fn standing_of(&self, node: NodeId) -> Result<StandingView, ClientError> {
        let operation = format!("ask how node {node} stands");
        let call = Call::get(operation, format!("/v1/nodes/{node}/standing"));
        self.json(&call, "standing").await
    }

    /// `POST /v1/nodes/{node}/review`, for the operator. Repeating it changes nothing.
    pub async fn review(
        &self,
        node: NodeId,
        review: &ReviewRequest,
    ) -> Result<NodeView, ClientError> {
        let operation = format!("review what is held against node {node}");
        let path = format!("/v1/nodes/{node}/review");
        let call = Call::json(operation, Method::POST, path, review);
        self.json(&call.once(), "node").await
    }
}
