//! Keys and counters of the nodes. Keys are read once and kept; counters live in memory,
//! and the database holds a floor ahead of them, so that after a restart nothing that was
//! used is accepted again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use opengpu_protocol::ReplayWindow;
use opengpu_protocol::signing::{INTEGER_LIMIT, SignatureRefusal};
use opengpu_rounds::{Hash, NodeId};

use crate::api::error::ApiError;
use crate::store::{KeyRecord, NodeRecord, NodeState, Store};

/// How far the floor in the database runs ahead of the counters in use. Clients count in
/// microseconds since 1970, so this is one write a minute for each node.
const STEP: u64 = 60_000_000;

/// What is known of every node's key.
pub struct Signatures {
    store: Store,
    nodes: RwLock<BTreeMap<NodeId, Arc<Known>>>,
}

struct Known {
    /// Whether each key is live; one that was revoked never is again.
    keys: RwLock<BTreeMap<Hash, bool>>,
    state: Mutex<NodeState>,
    counters: Mutex<Counters>,
}

impl Known {
    fn is_live(&self, key: &Hash) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(key) == Some(&true)
    }

    fn state(&self) -> NodeState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Counters {
    window: ReplayWindow,
    persisted: u64,
}

impl Signatures {
    /// Knows nobody yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            nodes: RwLock::default(),
        }
    }

    /// A node that was admitted, now or before.
    pub fn learn(&self, record: &NodeRecord) {
        let keys = record.keys.iter();
        let keys = keys.map(|key| (key.public_key, key.revoked_ms.is_none()));
        let known = Known {
            keys: RwLock::new(keys.collect()),
            state: Mutex::new(record.state),
            counters: Mutex::new(Counters {
                window: ReplayWindow::above(record.counter_floor),
                persisted: record.counter_floor,
            }),
        };
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        // A node that enrols again keeps its counters.
        nodes.entry(record.id).or_insert_with(|| Arc::new(known));
    }

    /// What a node may do from now on.
    pub fn set_state(&self, node: NodeId, state: NodeState) {
        if let Some(known) = self.known(node) {
            *known.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// Whether a node waits for approval.
    pub fn is_pending(&self, node: NodeId) -> bool {
        self.known(node)
            .is_some_and(|known| known.state() == NodeState::Pending)
    }

    /// Gives a node a further key.
    pub fn add_key(&self, node: NodeId, key: KeyRecord) {
        if let Some(known) = self.known(node) {
            let mut keys = known.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.entry(key.public_key)
                .or_insert(key.revoked_ms.is_none());
        }
    }

    /// Takes a key from a node. Whoever asks from now on hears so.
    pub fn revoke_key(&self, node: NodeId, key: Hash) {
        if let Some(known) = self.known(node) {
            let mut keys = known.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.insert(key, false);
        }
    }

    /// Whether a request signed with this key would be the node's.
    pub fn is_live(&self, node: NodeId, key: &Hash) -> bool {
        self.known(node).is_some_and(|known| known.is_live(key))
    }

    /// The keys that a request of this node may be signed with, if it may speak: the one that
    /// the request names, also if it was revoked, or else all that were not.
    pub fn keys_of(
        &self,
        node: NodeId,
        named: Option<Hash>,
        also_banned: bool,
    ) -> Result<Vec<Hash>, ApiError> {
        let Some(known) = self.known(node) else {
            return Err(ApiError::unauthorised(
                "unknown_node",
                format!("there is no node {node} here; enrol this machine again"),
            ));
        };
        if known.state() == NodeState::Banned && !also_banned {
            return Err(ApiError::forbidden(
                "banned",
                format!(
                    "node {node} is banned; only the operator of this coordinator can restore it, and `opengpu appeal` tells why and asks him to"
                ),
            ));
        }
        let keys = known.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(match named {
            Some(named) => keys
                .contains_key(&named)
                .then_some(named)
                .into_iter()
                .collect(),
            None => keys.iter().filter(|key| *key.1).map(|key| *key.0).collect(),
        })
    }

    /// Uses a counter up, once. To be called after the signature was verified. The floor is
    /// in the database before this returns.
    pub async fn admit(
        &self,
        node: NodeId,
        counter: u64,
    ) -> anyhow::Result<Result<(), SignatureRefusal>> {
        let Some(known) = self.known(node) else {
            return Ok(Err(SignatureRefusal::BadSignature));
        };
        let to_persist = {
            let mut counters = known
                .counters
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Err(refusal) = counters.window.admit(counter) {
                return Ok(Err(refusal));
            }
            let persisted = counters.persisted;
            counters.window.floor_to_persist(persisted, STEP)
        };
        if let Some(floor) = to_persist {
            let floor = self
                .store
                .reserve_counters(node, floor.min(INTEGER_LIMIT - 2))
                .await?;
            let mut counters = known
                .counters
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            counters.persisted = counters.persisted.max(floor);
        }
        Ok(Ok(()))
    }

    fn known(&self, node: NodeId) -> Option<Arc<Known>> {
        self.nodes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }
}
