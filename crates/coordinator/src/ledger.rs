//! The ledgers as others read them: signed heads, receipts, proofs. What is in them is written
//! with the events they follow from ([`crate::store`]).

use anyhow::Context;
use opengpu_ledger::tree::{TreeHash, plan_consistency, plan_inclusion};
use opengpu_ledger::{EntryKind, Head, Origin, Receipt, VerifierKey, line};
use opengpu_protocol::SigningKey;
use opengpu_rounds::{AssignmentId, Hash, RunId};

use crate::home::Home;
use crate::store::{LedgerLine, Store};

/// File with the key that signs heads, mode 0600.
const KEY_FILE: &str = "ledger.key";

/// What signs the heads of all ledgers of this installation.
pub struct Signer {
    key: SigningKey,
    /// Names the installation in the names of its ledgers.
    host: String,
}

/// A head as it is given out.
pub struct SignedHead {
    /// What it says.
    pub head: Head,
    /// The same, signed.
    pub note: String,
}

impl Signer {
    /// The key of this home, made on first use.
    pub fn of(home: &Home) -> anyhow::Result<Self> {
        let seed: Hash = home
            .secret(KEY_FILE)?
            .parse()
            .with_context(|| format!("{KEY_FILE} in the home folder holds no key"))?;
        let key = SigningKey::from_bytes(&seed.0);
        let name = Hash::of(key.verifying_key().as_bytes()).to_string();
        Ok(Self {
            key,
            host: format!("opengpu-{}", &name[..16]),
        })
    }

    /// What verifies the ledger of a run.
    pub fn verifier(&self, run: RunId) -> anyhow::Result<VerifierKey> {
        let origin = Origin::of_run(&self.host, run)?;
        Ok(VerifierKey::new(origin, self.key.verifying_key()))
    }

    /// The head over all entries that are durable now.
    pub async fn head(&self, store: &Store, run: RunId) -> anyhow::Result<SignedHead> {
        let size = store.ledger_size(run).await?;
        let head = Head {
            origin: Origin::of_run(&self.host, run)?,
            size,
            root: store.ledger_frontier(run, size).await?.root(),
        };
        let note = head.sign(&self.key);
        Ok(SignedHead { head, note })
    }

    /// The receipt for the accepted update of an assignment, or for its rejection or correction
    /// with `code`; None if the ledger has none.
    pub async fn receipt(
        &self,
        store: &Store,
        run: RunId,
        assignment: AssignmentId,
        code: Option<&str>,
    ) -> anyhow::Result<Option<Receipt>> {
        let entries = store.ledger_of(run, assignment).await?;
        let Some(found) = entries.into_iter().find(|found| is(found, code)) else {
            return Ok(None);
        };
        let signed = self.head(store, run).await?;
        let plan = plan_inclusion(found.number, signed.head.size)?;
        Ok(Some(Receipt {
            line: found.line.into_bytes(),
            index: found.number,
            proof: store.ledger_proof(run, &plan).await?,
            head: signed.note,
        }))
    }

    /// A head and the proof that it goes on the ledger as it was with `older` entries; None if
    /// there are fewer.
    pub async fn consistency(
        &self,
        store: &Store,
        run: RunId,
        older: u64,
    ) -> anyhow::Result<Option<(SignedHead, Vec<TreeHash>)>> {
        let signed = self.head(store, run).await?;
        if older > signed.head.size {
            return Ok(None);
        }
        let plan = plan_consistency(older, signed.head.size)?;
        let proof = store.ledger_proof(run, &plan).await?;
        Ok(Some((signed, proof)))
    }
}

/// Whether a line is an accepted update, or the rejection or the correction with this code.
fn is(found: &LedgerLine, wanted: Option<&str>) -> bool {
    let Ok(entry) = line::read(found.line.as_bytes()) else {
        return false;
    };
    match (entry.kind, wanted) {
        (EntryKind::Accepted { .. }, None) => true,
        (EntryKind::Rejected { code, .. }, Some(wanted)) => code.as_str() == wanted,
        (EntryKind::Corrected { reason, .. }, Some(wanted)) => reason.as_str() == wanted,
        _ => false,
    }
}
