//! This machine's keys: speaking as the node of a home without running its agent, and changing
//! the key that it signs with.
//!
//! ```text
//! node/key         in use
//! node/key.next    made, perhaps known to the coordinator, not in use yet
//! node/key.old     no longer in use, not revoked yet
//! ```
//!
//! Whatever moment a change of keys is cut short at, `node/key` is one that the coordinator
//! takes, and changing again finishes what was begun.

use std::path::Path;

use opengpu_protocol::{Client, SigningKey, signing};
use opengpu_rounds::{Hash, NodeId};

use crate::AgentError;
use crate::home::{NodeHome, failed, sync_folder};
use crate::identity::{self, Enrolment};

/// A client that signs as the node of this home, beside an agent that runs there or without.
pub fn node_client(home: &Path) -> Result<(NodeId, Client), AgentError> {
    let folder = home.join("node");
    let known = identity::enrolment_in(&folder)?.zip(identity::stored_key(&folder.join("key"))?);
    let Some((enrolment, key)) = known else {
        return Err(AgentError::NoServer {
            home: home.to_owned(),
        });
    };
    let client = Client::node(&enrolment.server, key, enrolment.node)?;
    Ok((enrolment.node, client))
}

/// Gives this machine a new key and has the coordinator revoke the old one. Refused while an
/// agent runs, which would go on with the old one. Returns the new public key.
pub async fn rotate_key(home: &Path) -> Result<(NodeId, Hash), AgentError> {
    let locked = NodeHome::open(home)?;
    let Some(enrolment) = identity::enrolment_in(locked.folder())? else {
        return Err(AgentError::NoServer {
            home: home.to_owned(),
        });
    };
    revoke_old(&locked, &enrolment).await?;
    let [used, next, old] = ["key", "key.next", "key.old"].map(|name| locked.folder().join(name));
    let current = identity::key(&locked)?;
    let new = match identity::stored_key(&next)? {
        Some(new) => new,
        None => identity::new_key(&locked, &next)?,
    };
    let client = Client::node(&enrolment.server, current.clone(), enrolment.node)?;
    client.add_key(enrolment.node, &new).await?;
    identity::store_key(&locked, &old, &current)?;
    std::fs::rename(&next, &used)
        .and_then(|()| sync_folder(&used))
        .map_err(|error| failed("replace", &used, error))?;
    revoke_old(&locked, &enrolment).await?;
    Ok((enrolment.node, signing::public_key(&new)))
}

/// Revokes the key that was in use before, if there is one.
async fn revoke_old(home: &NodeHome, enrolment: &Enrolment) -> Result<(), AgentError> {
    let path = home.folder().join("key.old");
    let Some(old) = identity::stored_key(&path)? else {
        return Ok(());
    };
    let current = identity::key(home)?;
    // Else it was cut short before the new key came into use.
    if !same(&old, &current) {
        let client = Client::node(&enrolment.server, current, enrolment.node)?;
        client.revoke_key(signing::public_key(&old)).await?;
    }
    std::fs::remove_file(&path).map_err(|error| failed("remove", &path, error))
}

fn same(one: &SigningKey, other: &SigningKey) -> bool {
    signing::public_key(one) == signing::public_key(other)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::fake::{Asked, coordinator};

    const REFUSAL: &str = r#"{"code":"some","message":"not now"}"#;

    /// A home whose node is enrolled at `server`, and its key.
    fn enrolled(folder: &Path, server: &str) -> Hash {
        let home = NodeHome::open(folder).unwrap();
        let json = format!(r#"{{"node":7,"server":"{server}","name":"attic"}}"#);
        std::fs::write(home.folder().join("node.json"), json).unwrap();
        signing::public_key(&identity::key(&home).unwrap())
    }

    fn in_use(folder: &Path) -> Hash {
        let key = identity::stored_key(&folder.join("node/key")).unwrap();
        signing::public_key(&key.unwrap())
    }

    fn asked(log: &Asked) -> Vec<String> {
        let mut log = log.lock().unwrap();
        log.drain(..).map(|(what, _)| what).collect()
    }

    #[tokio::test]
    async fn a_changed_key_is_added_then_used_then_the_old_one_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let (server, log) = coordinator(|_| (200, "[]")).await;
        let old = enrolled(folder.path(), &server);
        let (node, new) = rotate_key(folder.path()).await.unwrap();
        assert_eq!((node, in_use(folder.path())), (NodeId(7), new));
        assert_ne!(new, old);
        assert_eq!(
            asked(&log),
            ["POST /v1/keys".to_owned(), format!("DELETE /v1/keys/{old}")]
        );
        for gone in ["node/key.next", "node/key.old"] {
            assert!(!folder.path().join(gone).exists(), "{gone}");
        }
    }

    #[tokio::test]
    async fn a_change_that_was_not_taken_leaves_the_old_key_and_goes_on_with_the_same_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let takes = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&takes);
        let answer = move |_: &str| match now.load(Ordering::SeqCst) {
            true => (200, "[]"),
            false => (409, REFUSAL),
        };
        let (server, log) = coordinator(answer).await;
        let old = enrolled(folder.path(), &server);
        assert!(rotate_key(folder.path()).await.is_err());
        assert_eq!(in_use(folder.path()), old);
        takes.store(true, Ordering::SeqCst);
        let (_, new) = rotate_key(folder.path()).await.unwrap();
        let log = log.lock().unwrap();
        // It may have been taken the first time, and only the answer lost.
        assert_eq!(log[0], log[1]);
        assert!(log[0].1.contains(&new.to_string()));
    }

    #[tokio::test]
    async fn an_old_key_that_is_not_revoked_yet_is_revoked_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let takes = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&takes);
        let answer = move |what: &str| {
            let refused = what.starts_with("DELETE") && !now.load(Ordering::SeqCst);
            if refused { (409, REFUSAL) } else { (200, "[]") }
        };
        let (server, log) = coordinator(answer).await;
        let first = enrolled(folder.path(), &server);
        assert!(rotate_key(folder.path()).await.is_err());
        let second = in_use(folder.path());
        assert_ne!(second, first, "the new one is in use");
        asked(&log);
        takes.store(true, Ordering::SeqCst);
        rotate_key(folder.path()).await.unwrap();
        assert_eq!(
            asked(&log),
            [
                format!("DELETE /v1/keys/{first}"),
                "POST /v1/keys".to_owned(),
                format!("DELETE /v1/keys/{second}"),
            ]
        );
    }

    #[tokio::test]
    async fn an_agent_at_work_keeps_its_key_and_a_home_without_a_node_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let error = node_client(folder.path()).unwrap_err();
        assert!(matches!(error, AgentError::NoServer { .. }), "{error}");
        enrolled(folder.path(), "http://127.0.0.1:9");
        assert_eq!(node_client(folder.path()).unwrap().0, NodeId(7));
        let _at_work = NodeHome::open(folder.path()).unwrap();
        let error = rotate_key(folder.path()).await.unwrap_err();
        assert!(matches!(error, AgentError::HomeInUse { .. }), "{error}");
    }
}
