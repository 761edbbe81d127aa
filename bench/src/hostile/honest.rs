//! An honest node: the product's own client, a worker in the run, an open directive stream.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use opengpu_protocol::operator::TokenRequest;
use opengpu_protocol::wire::{Activity, Enrol, Machine, Offer, Report};
use opengpu_protocol::{Client, SigningKey, signing};
use opengpu_rounds::{FeedbackId, Hash, NodeId, Revision, RunId, WorkerId};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::installation::Installation;

/// Between two rounds of requests; an agent asks less often.
const PAUSE: Duration = Duration::from_millis(40);
/// A plan comes at least every 5 s.
const SILENCE: Duration = Duration::from_secs(20);
/// One round of requests out of so many is sent over a new connection.
const FRESH_EVERY: usize = 3;

pub struct Honest {
    /// A token that lets machines in for which nobody vouches.
    pub invitation: String,
    pub key: SigningKey,
    pub node: NodeId,
    pub worker: WorkerId,
    client: Client,
    run: RunId,
    revision: Revision,
    digest: Hash,
    rounds: usize,
    /// Reads plans for ever; ends when the stream does.
    plans: JoinHandle<Result<()>>,
}

impl Honest {
    pub async fn join(installation: &Installation, run: RunId) -> Result<Self> {
        let asked = TokenRequest {
            label: "a hostile network".to_owned(),
            uses: 3,
            expires_in_seconds: None,
        };
        let invitation = installation.client()?.make_token(&asked).await?.token;
        let key = SigningKey::from_bytes(&[0x31; 32]);
        let (node, client) = enrol(installation, &invitation, &key, "honest").await?;
        let worker = client.offer(0, &offer()).await?.worker;
        let view = client.run(run).await?;
        let mut plans = client.directives(SILENCE).await?;
        let plans: JoinHandle<Result<()>> = tokio::spawn(async move {
            while plans.next().await?.is_some() {}
            Err(anyhow!("the coordinator closed the directive stream"))
        });
        Ok(Self {
            invitation,
            key,
            node,
            worker,
            client,
            run,
            revision: view.revision,
            digest: view.digest,
            rounds: 0,
            plans,
        })
    }

    /// Asks as an agent does, and says how long each request took. Fails with the first that
    /// does.
    pub async fn ask_while(&mut self, go_on: impl Fn() -> bool) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        while go_on() || times.is_empty() {
            self.rounds += 1;
            let client = match self.rounds % FRESH_EVERY {
                0 => Client::node(self.client.server(), self.key.clone(), self.node)?,
                _ => self.client.clone(),
            };
            let report = claim(self.run, self.revision, self.digest);
            let started = Instant::now();
            client.report(self.worker, &report).await?;
            times.push(started.elapsed());
            let started = Instant::now();
            client.run(self.run).await?;
            times.push(started.elapsed());
            let started = Instant::now();
            client.keys().await?;
            times.push(started.elapsed());
            ensure!(!self.plans.is_finished(), "the directive stream was cut");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(times)
    }

    /// The stream that was opened before all attacks goes on.
    pub async fn still_hears_its_plan(&mut self) -> Result<()> {
        if self.plans.is_finished() {
            (&mut self.plans).await??;
        }
        Ok(())
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.plans.abort();
    }
}

/// Enrols a machine with this token.
pub async fn enrol(
    installation: &Installation,
    token: &str,
    key: &SigningKey,
    name: &str,
) -> Result<(NodeId, Client)> {
    let enrol = Enrol {
        token: Some(token.to_owned()),
        public_key: signing::public_key(key),
        name: name.to_owned(),
        machine: Machine::default(),
    };
    let url = installation.url();
    let enrolled = Client::anonymous(&url)?.enrol(&enrol).await;
    let node = enrolled.with_context(|| format!("enrolling {name}"))?.node;
    Ok((node, Client::node(&url, key.clone(), node)?))
}

/// A device.
pub fn offer() -> Offer {
    Offer {
        trainer: "hostile network".to_owned(),
        device: "none".to_owned(),
        numerics_class: "none".to_owned(),
    }
}

/// A report of a worker that says to hold these weights and to wait for work.
pub fn claim(run: RunId, revision: Revision, digest: Hash) -> Report {
    Report {
        run,
        revision,
        digest,
        feedback: FeedbackId(1),
        blocks_per_second: 1.0,
        activity: Activity::Idle,
    }
}
