//! Who this machine is: its key, made once, and its node id at a coordinator.

use std::path::Path;

use opengpu_protocol::wire::{Enrol, Machine};
use opengpu_protocol::{Client, SigningKey, signing};
use opengpu_rounds::{Hash, NodeId};
use serde::{Deserialize, Serialize};

use crate::home::{NodeHome, failed};
use crate::{AgentError, AgentSettings};

/// What `node.json` remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    pub(crate) node: NodeId,
    pub(crate) server: String,
    pub(crate) name: String,
}

/// The key of this home; drawn from the operating system the first time.
pub(crate) fn key(home: &NodeHome) -> Result<SigningKey, AgentError> {
    let path = home.folder().join("key");
    match stored_key(&path)? {
        Some(key) => Ok(key),
        None => new_key(home, &path),
    }
}

/// The key in this file, if there is one.
pub(crate) fn stored_key(path: &Path) -> Result<Option<SigningKey>, AgentError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let seed: Hash = text.trim().parse().map_err(|_| AgentError::Damaged {
                path: path.to_owned(),
                problem: "a key is 64 hexadecimal digits; restore it, or remove it and enrol this machine anew".to_owned(),
            })?;
            Ok(Some(SigningKey::from_bytes(&seed.0)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, error)),
    }
}

/// Draws a key and keeps it in this file.
pub(crate) fn new_key(home: &NodeHome, path: &Path) -> Result<SigningKey, AgentError> {
    // The thread's generator is a cryptographic one seeded by the operating system.
    let key = SigningKey::from_bytes(&rand::random());
    store_key(home, path, &key)?;
    Ok(key)
}

/// Keeps a key in this file, durably and for its owner alone.
pub(crate) fn store_key(home: &NodeHome, path: &Path, key: &SigningKey) -> Result<(), AgentError> {
    let text = format!("{}\n", Hash(key.to_bytes()));
    home.replace(path, &[text.as_bytes()], true)
}

/// The enrolment that the agent's folder `node` remembers, if there is one.
pub(crate) fn enrolment_in(folder: &Path) -> Result<Option<Enrolment>, AgentError> {
    let path = folder.join("node.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path, error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| AgentError::Damaged {
            path,
            problem: format!("{error}; remove it and enrol with a token again"),
        })
}

/// The enrolment that was asked for: the remembered one, or a new one by token.
pub(crate) async fn enrol_if_needed(
    home: &NodeHome,
    settings: &AgentSettings,
    key: &SigningKey,
) -> Result<Enrolment, AgentError> {
    let remembered = enrolment_in(home.folder())?;
    let wanted = settings
        .server
        .as_ref()
        .map(|server| server.trim_end_matches('/').to_owned());
    match (remembered, wanted) {
        (Some(known), None) => Ok(known),
        (Some(known), Some(server)) if known.server == server => Ok(known),
        (None, None) => Err(AgentError::NoServer {
            home: settings.home.clone(),
        }),
        (_, Some(server)) => enrol(home, settings, key, &server).await,
    }
}

/// Enrols, with the token if there is one, and remembers it durably.
pub(crate) async fn enrol(
    home: &NodeHome,
    settings: &AgentSettings,
    key: &SigningKey,
    server: &str,
) -> Result<Enrolment, AgentError> {
    let client = Client::anonymous(server)?;
    let server = client.server().to_owned();
    client.hello(crate::SOFTWARE).await?;
    let enrol = Enrol {
        token: settings.token.clone(),
        public_key: signing::public_key(key),
        name: settings.name.clone(),
        machine: machine(),
    };
    let enrolled = client.enrol(&enrol).await;
    let enrolled = enrolled.map_err(|error| match error.code() {
        Some("token_needed") => AgentError::NoToken {
            server: server.clone(),
        },
        _ => error.into(),
    })?;
    let enrolment = Enrolment {
        node: enrolled.node,
        server,
        name: settings.name.clone(),
    };
    let text = serde_json::to_vec_pretty(&enrolment).unwrap_or_default();
    home.replace(&home.folder().join("node.json"), &[&text], true)?;
    tracing::info!(
        node = enrolled.node.0,
        server = enrolment.server,
        "enrolled"
    );
    Ok(enrolment)
}

fn machine() -> Machine {
    let memory_bytes = sysinfo::System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    Machine {
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes,
        software: crate::SOFTWARE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = NodeHome::open(folder.path()).unwrap();
        let first = key(&home).unwrap();
        let second = key(&home).unwrap();
        assert_eq!(first.to_bytes(), second.to_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.path().join("node/key"))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
        std::fs::write(folder.path().join("node/key"), "no key").unwrap();
        assert!(matches!(key(&home), Err(AgentError::Damaged { .. })));
    }

    #[tokio::test]
    async fn without_enrolment_and_token_it_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let home = NodeHome::open(folder.path()).unwrap();
        let key = key(&home).unwrap();
        let mut settings = AgentSettings {
            home: folder.path().to_owned(),
            server: None,
            token: None,
            name: "test".to_owned(),
            devices: Vec::new(),
            shutdown: tokio_util::sync::CancellationToken::new(),
        };
        let error = enrol_if_needed(&home, &settings, &key).await.unwrap_err();
        assert!(matches!(error, AgentError::NoServer { .. }), "{error}");
        let (server, _) = crate::fake::coordinator(|what| match what {
            "POST /v1/hello" => (200, r#"{"version":1,"software":"t","unix_ms":0}"#),
            _ => (403, r#"{"code":"token_needed","message":"by token"}"#),
        })
        .await;
        settings.server = Some(server);
        let error = enrol_if_needed(&home, &settings, &key).await.unwrap_err();
        assert!(error.to_string().contains("--token"), "{error}");
    }
}
