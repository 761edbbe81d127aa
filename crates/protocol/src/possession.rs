//! Proof that who adds a key to a node holds it: a signature with the new key over the node's
//! id. Without it a node could claim another's public key, and pass for its owner.
//!
//! The text begins with words that no request can begin with (a method and a line's end do),
//! so that neither signature ever passes for the other.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use opengpu_rounds::{Hash, NodeId};

use crate::signing::{hex, is_public_key, public_key, unhex};

/// The proof that `key` is in the hands of who adds it to `node`, 128 hexadecimal digits.
pub fn prove(key: &SigningKey, node: NodeId) -> String {
    let text = text(&public_key(key), node);
    hex(&key.sign(text.as_bytes()).to_bytes())
}

/// Whether `proof` was made by the owner of `public_key` for `node`. Weak keys prove nothing.
pub fn is_proven(public_key: &Hash, node: NodeId, proof: &str) -> bool {
    let Some(proof) = unhex(proof).filter(|_| is_public_key(public_key)) else {
        return false;
    };
    VerifyingKey::from_bytes(&public_key.0).is_ok_and(|key| {
        let text = text(public_key, node);
        key.verify_strict(text.as_bytes(), &Signature::from_bytes(&proof))
            .is_ok()
    })
}

fn text(public_key: &Hash, node: NodeId) -> String {
    format!("opengpu: a key for a node, 1\n{node}\n{public_key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_key_and_one_node() {
        let key = |seed| SigningKey::from_bytes(&[seed; 32]);
        let proof = prove(&key(1), NodeId(7));
        let public = public_key(&key(1));
        assert!(is_proven(&public, NodeId(7), &proof));
        assert!(!is_proven(&public, NodeId(8), &proof));
        assert!(!is_proven(&public_key(&key(2)), NodeId(7), &proof));
        assert!(!is_proven(&public, NodeId(7), &proof[..127]));
        assert!(!is_proven(&public, NodeId(7), &"0".repeat(128)));
        assert!(!is_proven(&Hash([0; 32]), NodeId(7), &proof));
    }
}
