//! Facts about who trains an assignment again, and whom to believe.

use std::collections::BTreeSet;

use opengpu_rounds::{
    Belief, Candidate, Choice, Finding, Involved, MOST_ASKED, NodeId, Rerun, WorkerId, believe,
    choose_auditor,
};

const STRANGER: Involved = Involved {
    node: NodeId(9),
    account: None,
};

fn candidate(id: u64) -> Candidate {
    Candidate {
        worker: WorkerId(10 * id),
        node: NodeId(id),
        account: None,
        same_class: false,
        asked: 0,
    }
}

fn ask(id: u64) -> Choice {
    Choice::Ask(WorkerId(10 * id), NodeId(id))
}

#[test]
fn nobody_trains_again_what_is_of_his_own_node_or_account() {
    let own = Candidate {
        node: STRANGER.node,
        ..candidate(1)
    };
    assert_eq!(choose_auditor(&[STRANGER], &[own], 7), Choice::Nobody);
    let of_account = |account| Involved {
        account: Some(account),
        ..STRANGER
    };
    let friend = Candidate {
        account: Some(3),
        ..candidate(1)
    };
    assert_eq!(
        choose_auditor(&[of_account(3)], &[friend], 7),
        Choice::Nobody
    );
    assert_eq!(choose_auditor(&[of_account(4)], &[friend], 7), ask(1));
    // Nodes that belong to nobody are not of one account.
    assert_eq!(choose_auditor(&[STRANGER], &[candidate(1)], 7), ask(1));
}

#[test]
fn who_contradicted_is_not_asked_again_and_neither_is_its_account() {
    let second = Involved {
        node: NodeId(1),
        account: Some(3),
    };
    let of_same = Candidate {
        account: Some(3),
        ..candidate(2)
    };
    let involved = [STRANGER, second];
    assert_eq!(
        choose_auditor(&involved, &[candidate(1), of_same], 7),
        Choice::Nobody
    );
    assert_eq!(
        choose_auditor(&involved, &[candidate(1), of_same, candidate(4)], 7),
        ask(4)
    );
}

#[test]
fn the_same_numerics_class_comes_first_and_then_who_has_least_to_do() {
    let same = Candidate {
        same_class: true,
        asked: 1,
        ..candidate(2)
    };
    let busy = Candidate {
        asked: 1,
        ..candidate(3)
    };
    for draw in 0..50 {
        let of_all = choose_auditor(&[STRANGER], &[candidate(1), same, busy], draw);
        assert_eq!(of_all, ask(2));
        assert_eq!(
            choose_auditor(&[STRANGER], &[candidate(1), busy], draw),
            ask(1)
        );
    }
    let full = Candidate {
        asked: MOST_ASKED,
        ..same
    };
    assert_eq!(choose_auditor(&[STRANGER], &[full, busy], 1), ask(3));
    assert_eq!(choose_auditor(&[STRANGER], &[full], 1), Choice::Wait);
    assert_eq!(choose_auditor(&[STRANGER], &[], 1), Choice::Nobody);
}

#[test]
fn who_is_asked_follows_from_the_draw_alone_and_can_be_anybody() {
    let candidates: Vec<_> = (1..=5).map(candidate).collect();
    let mut backwards = candidates.clone();
    backwards.reverse();
    let mut chosen = BTreeSet::new();
    for draw in 0..200 {
        let choice = choose_auditor(&[STRANGER], &candidates, draw);
        assert_eq!(choice, choose_auditor(&[STRANGER], &backwards, draw));
        let Choice::Ask(worker, _) = choice else {
            panic!("{choice:?}");
        };
        chosen.insert(worker);
    }
    assert_eq!(chosen.len(), 5);
}

#[test]
fn two_of_three_are_believed() {
    assert_eq!(believe(true, false), Belief::Worker);
    assert_eq!(believe(false, true), Belief::Auditor);
    assert_eq!(believe(true, true), Belief::Both);
    assert_eq!(believe(false, false), Belief::Nobody);
}

#[test]
fn a_finding_names_who_decided_and_one_from_before_nodes_audited_still_reads() {
    let node = Rerun::new(Some((NodeId(4), WorkerId(40))), 0.5, 0.1);
    let own = Rerun::new(None, f64::INFINITY, 0.1);
    assert!(!node.agrees() && !own.agrees() && Rerun::new(None, 0.1, 0.1).agrees());
    assert!(!Rerun::new(None, f64::NAN, 0.1).agrees());
    let found = Finding::passed(0.0, 0.1).by(vec![own, node]);
    assert_eq!(found.decided_by(), Some(NodeId(4)));
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Finding>(&json).unwrap(), found);
    let before = r#"{"outcome":"passed","code":"same","reason":"","measured":0.0,"allowed":0.1}"#;
    let before: Finding = serde_json::from_str(before).unwrap();
    assert_eq!((before.reruns.len(), before.decided_by()), (0, None));
    let plain = serde_json::to_string(&Finding::passed(0.0, 0.1)).unwrap();
    assert!(!plain.contains("reruns"), "{plain}");
    let before: Rerun = serde_json::from_str(r#"{"by":4,"measured":0.5,"allowed":0.1}"#).unwrap();
    assert_eq!(
        (before.by, before.worker, before.refuted),
        (node.by, None, false)
    );
    assert_eq!(
        Finding::failed("", String::new(), None)
            .by(vec![before])
            .credited()
            .count(),
        0
    );
}

#[test]
fn who_came_to_what_was_found_is_credited_and_nobody_who_was_refuted() {
    let by = |number| Some((NodeId(number), WorkerId(10 * number)));
    let same = Rerun::new(by(1), 0.0, 0.1);
    let other = Rerun::new(by(2), 0.5, 0.1);
    let refuted = Rerun {
        refuted: true,
        ..Rerun::new(by(3), 0.5, 0.1)
    };
    let own = [Rerun::new(None, 0.0, 0.1), Rerun::new(None, 0.5, 0.1)];
    let reruns = [vec![same, other, refuted], own.to_vec()].concat();
    let credited = |finding: Finding| finding.by(reruns.clone()).credited().collect::<Vec<_>>();
    assert_eq!(credited(Finding::passed(0.0, 0.1)), [by(1).unwrap()]);
    let failed = Finding::failed("progress_differs", String::new(), None);
    assert_eq!(credited(failed), [by(2).unwrap()]);
    assert_eq!(credited(Finding::undecided("", "")), []);
}
