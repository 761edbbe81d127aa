//! The Merkle tree of RFC 6962, section 2.1 (unchanged in RFC 9162), over SHA-256.
//!
//! A store keeps the hashes of all complete subtrees in one table, index to hash, and never
//! changes a row. What a root or a proof needs is asked in two steps, first the indexes, then
//! the hashes that the caller read, so that a database with an asynchronous client and a
//! vector in a test serve alike. No step needs more than O(log n) hashes.
//!
//! Not here: lines, signatures, storage.

mod consistency;
mod frontier;
mod hash;
mod inclusion;
mod plan;
pub mod stored;

pub use consistency::{ConsistencyError, plan_consistency, verify_consistency};
pub use frontier::Frontier;
pub use hash::{EMPTY_ROOT, NotATreeHash, TreeHash, leaf_hash};
pub use inclusion::{InclusionError, plan_inclusion, verify_inclusion};
pub use plan::{PlanError, ProofPlan};

/// Most leaves that a ledger can have. Twice as many hashes are stored, whose indexes are
/// below 2^53 then.
pub const MAX_SIZE: u64 = 1 << 52;

/// Hashes in the longest proof: one for each level.
pub const MAX_PROOF_HASHES: usize = 53;
