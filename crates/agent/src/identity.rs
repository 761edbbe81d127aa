//! Who this machine is: its key, made once, and its node id at a coordinator.

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
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let seed: Hash = text.trim().parse().map_err(|_| AgentError::Damaged {
                path: path.clone(),
                problem: "a key is 64 hexadecimal digits; restore it, or remove it and enrol this machine anew".to_owned(),
            })?;
            Ok(SigningKey::from_bytes(&seed.0))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // The thread's generator is a cryptographic one seeded by the operating system.
            let seed: [u8; 32] = rand::random();
            home.replace(&path, &[format!("{}\n", Hash(seed)).as_bytes()], true)?;
            Ok(SigningKey::from_bytes(&seed))
        }
        Err(error) => Err(failed("read", &path, error)),
    }
}

/// The enrolment of this home, if there is one.
pub(crate) fn enrolment(home: &NodeHome) -> Result<Option<Enrolment>, AgentError> {
    let path = home.folder().join("node.json");
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
    let remembered = enrolment(home)?;
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

    /// Greets, and refuses who enrols without a token. One connection for each request.
    async fn a_coordinator_that_wants_a_token() -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut line, _)) = listener.accept().await {
                // The requests of this test come in one piece.
                let mut request = vec![0; 8192];
                let read = line.read(&mut request).await.unwrap();
                let greets = request[..read].starts_with(b"POST /v1/hello");
                let (status, body) = if greets {
                    ("200 OK", r#"{"version":1,"software":"t","unix_ms":0}"#)
                } else {
                    (
                        "403 Forbidden",
                        r#"{"code":"token_needed","message":"by token"}"#,
                    )
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                line.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
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
        settings.server = Some(a_coordinator_that_wants_a_token().await);
        let error = enrol_if_needed(&home, &settings, &key).await.unwrap_err();
        assert!(error.to_string().contains("--token"), "{error}");
    }
}
