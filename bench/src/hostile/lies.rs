//! What a node sends that lies about its work. None of it may be taken.

use opengpu_protocol::wire::UpdateNotice;
use opengpu_rounds::{AssignmentId, Commitment, FeedbackId, Hash, Revision, WorkerId};

/// Updates that are taken back between two at most.
const MOST_TAKEN_BACK: u64 = 8;

/// Notices like one that is in order, each with one thing that is not.
pub fn like(good: &UpdateNotice, victims: WorkerId) -> Vec<(&'static str, UpdateNotice)> {
    let like = || good.clone();
    let committed = |previous, taken_back: Vec<AssignmentId>| UpdateNotice {
        commitment: Some(Commitment {
            root: Hash([7; 32]),
            previous,
            taken_back,
        }),
        ..like()
    };
    let never = AssignmentId(1 << 40);
    let many = (0..=MOST_TAKEN_BACK).map(AssignmentId).collect();
    let of_another = UpdateNotice {
        worker: victims,
        ..like()
    };
    let all_blocks = UpdateNotice {
        blocks_completed: 1 << 52,
        ..like()
    };
    let other_feedback = UpdateNotice {
        feedback: FeedbackId(1 << 40),
        ..like()
    };
    let no_base = Revision {
        number: good.base.number + 1,
        ..good.base
    };
    let no_revision = UpdateNotice {
        base: no_base,
        ..like()
    };
    let no_commitment = UpdateNotice {
        commitment: None,
        ..like()
    };
    vec![
        ("a true notice for another's worker", of_another),
        ("more blocks than were given", all_blocks),
        ("error feedback that is none", other_feedback),
        ("a revision that is to come", no_revision),
        ("no commitment", no_commitment),
        (
            "a commitment that follows from nothing",
            committed(Some(never), Vec::new()),
        ),
        (
            "a commitment that takes back what is unknown",
            committed(None, vec![never]),
        ),
        (
            "a commitment that takes back too much",
            committed(None, many),
        ),
    ]
}

/// Bytes like those that are asked for, of which none are they.
pub fn bytes(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut shorter = good.to_vec();
    shorter.pop();
    let longer = [good, &[0]].concat();
    vec![
        ("nothing", Vec::new()),
        ("a byte less", shorter),
        ("a byte more", longer),
        ("a megabyte more", [good, &[7; 1 << 20]].concat()),
    ]
}

/// Notices of a payload that was refused, of which none is true.
pub fn notices(notice: &UpdateNotice, victims: WorkerId) -> Vec<(&'static str, UpdateNotice)> {
    let like = || notice.clone();
    let base = Revision {
        lineage: u32::MAX,
        number: 1 << 52,
    };
    let of_another = UpdateNotice {
        worker: victims,
        ..like()
    };
    let anothers = UpdateNotice {
        assignment: AssignmentId(0),
        ..like()
    };
    let all_blocks = UpdateNotice {
        blocks_completed: u64::MAX,
        ..like()
    };
    let no_numbers = UpdateNotice {
        loss: f64::NAN,
        train_seconds: -1e300,
        ..like()
    };
    let huge = UpdateNotice {
        payload_bytes: u64::MAX,
        ..like()
    };
    vec![
        ("a notice of what was refused", like()),
        ("a notice for another's worker", of_another),
        ("a notice for another's assignment", anothers),
        ("a notice of no revision", UpdateNotice { base, ..like() }),
        ("a notice of all blocks there are", all_blocks),
        ("a notice without numbers", no_numbers),
        ("a notice of a huge payload", huge),
    ]
}

/// Bytes that are no payload; some say to be safetensors, whose length of the header comes
/// first.
pub fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    let tensors = |length: u64, header: &[u8]| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(header);
        bytes
    };
    let beyond = br#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,18446744073709551615]}}"#;
    vec![
        ("an empty payload", Vec::new()),
        ("ones", vec![0xff; 4_000]),
        ("zeros", vec![0; 4_000]),
        ("a byte", vec![1]),
        ("safetensors of a huge header", tensors(u64::MAX, b"{}")),
        (
            "safetensors beyond their file",
            tensors(beyond.len() as u64, beyond),
        ),
        (
            "safetensors of a deep header",
            tensors(4_000, "[".repeat(4_000).as_bytes()),
        ),
        ("a payload longer than any", vec![7; 32 << 20]),
    ]
}
