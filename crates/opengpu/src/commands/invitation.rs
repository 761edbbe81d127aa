//! The line with which machines join, as `serve` prints it.
//!
//! Who enrols with `HOME/join.token` is taken for the operator's own machine, by any number and
//! for ever. So that token is for this machine alone: where others can reach the coordinator,
//! the line is passed on, and has a token that is counted, expires and makes nobody trusted.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use opengpu_protocol::{Client, operator::TokenRequest};

use crate::home::{Home, read_line};

/// Machines that the token of one line admits.
const USES: u32 = 16;
/// For how long.
const DAYS: u64 = 7;

/// What is printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The command.
    pub join: String,
    /// What to know about it, if it is for others.
    pub note: Option<String>,
}

impl Invitation {
    /// For machines that join at `address`, of a coordinator that listens on `bound`. A log
    /// gets no secret; a person at a terminal does.
    pub async fn make(
        home: &Home,
        bound: SocketAddr,
        address: SocketAddr,
        operator: &Client,
        on_terminal: bool,
    ) -> Result<Self> {
        let (token, note) = match (bound.ip().is_loopback(), on_terminal) {
            (true, true) => {
                let file = home.join_token_file();
                let token = read_line(&file, "the enrolment token", "start it again")?;
                (token, None)
            }
            (true, false) => (format!("$(cat {})", home.join_token_file().display()), None),
            (false, true) => {
                let note = format!(
                    "it admits {USES} machines within {DAYS} days, on probation; `opengpu node vouch ID` says that one is your own, and `opengpu node list` shows their IDs"
                );
                (fresh_token(operator).await?, Some(note))
            }
            (false, false) => {
                let note = format!(
                    "make a token with: opengpu node token --uses {USES}; machines come in on probation, and `opengpu node vouch ID` says that one is your own"
                );
                ("TOKEN".to_owned(), Some(note))
            }
        };
        Ok(Self {
            join: format!("opengpu join http://{address} --token {token}"),
            note,
        })
    }
}

async fn fresh_token(operator: &Client) -> Result<String> {
    let request = TokenRequest {
        label: "printed by serve".to_owned(),
        uses: USES,
        expires_in_seconds: Some(DAYS * 86_400),
    };
    let made = operator.make_token(&request).await;
    Ok(made.context("cannot make an enrolment token")?.token)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_coordinator::{EnrolmentPolicy, LimitSettings, OPERATOR_TOKEN, ServeSettings};
    use opengpu_protocol::wire::{Enrol, Machine};
    use opengpu_protocol::{SigningKey, signing};
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    async fn make(home: &Home, bound: &str, operator: &Client, on_terminal: bool) -> Invitation {
        let (bound, address) = (at(bound), at("192.0.2.7:8470"));
        let made = Invitation::make(home, bound, address, operator, on_terminal).await;
        made.unwrap()
    }

    #[tokio::test]
    async fn on_this_machine_alone_the_line_has_its_own_token_and_a_log_the_name_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path())).unwrap();
        std::fs::write(home.join_token_file(), "s3cret\n").unwrap();
        let nobody = Client::anonymous("http://127.0.0.1:9").unwrap();
        let line = make(&home, "127.0.0.1:8470", &nobody, true).await;
        assert!(line.join.ends_with(" --token s3cret"), "{line:?}");
        assert_eq!(line.note, None);
        let line = make(&home, "[::1]:8470", &nobody, false).await;
        assert!(line.join.contains("$(cat ") && line.join.contains("join.token"));
        let line = make(&home, "0.0.0.0:8470", &nobody, false).await;
        assert_eq!(
            line.join,
            "opengpu join http://192.0.2.7:8470 --token TOKEN"
        );
        assert!(line.note.unwrap().contains("opengpu node token --uses 16"));
    }

    #[tokio::test]
    async fn the_line_for_other_machines_admits_sixteen_for_whom_nobody_vouches() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path())).unwrap();
        let shutdown = CancellationToken::new();
        let bound = opengpu_coordinator::serve(ServeSettings {
            home: home.path().to_path_buf(),
            listen: at("127.0.0.1:0"),
            database_url: None,
            enrolment: EnrolmentPolicy::Invite,
            limits: LimitSettings::default(),
            trainer: None,
            extra_routes: None,
            shutdown: shutdown.clone(),
        })
        .await
        .unwrap();
        let url = format!("http://{}", bound.addr);
        let token = std::fs::read_to_string(home.path().join(OPERATOR_TOKEN)).unwrap();
        let operator = Client::operator(&url, token.trim()).unwrap();
        let line = make(&home, "0.0.0.0:8470", &operator, true).await;
        let note = line.note.unwrap();
        assert!(
            note.contains("16 machines") && note.contains("7 days"),
            "{note}"
        );
        assert!(note.contains("opengpu node vouch"), "{note}");

        let known = operator.tokens().await.unwrap();
        let printed = known.iter().find(|token| token.label == "printed by serve");
        let printed = printed.unwrap();
        assert_eq!(printed.uses, Some(16));
        assert!(printed.expires_in_seconds.unwrap() <= 7 * 86_400);

        let key = SigningKey::from_bytes(&[1; 32]);
        let enrol = Enrol {
            token: line.join.rsplit(' ').next().map(str::to_owned),
            public_key: signing::public_key(&key),
            name: "attic".into(),
            machine: Machine::default(),
        };
        let enrolled = Client::anonymous(&url).unwrap().enrol(&enrol).await;
        let node = operator.node_view(enrolled.unwrap().node).await.unwrap();
        assert_eq!((node.state.as_str(), node.vouched), ("active", false));
        shutdown.cancel();
        bound.stopped().await.unwrap();
    }
}
