//! The ledger from end to end: receipts on the nodes, an export, its verification, and what a
//! change of one number does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use opengpu_rounds::EventKind;

use crate::cluster::{Cluster, OPENGPU, opengpu};
use crate::invariants;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_accepted_update_has_a_receipt_and_the_export_proves_all_of_them() {
    let mut cluster = Cluster::with_nodes(2).await;
    let run = cluster.submit(4, 2, "evaluate_every = 0");
    let patience = Duration::from_secs(120);
    while cluster.client().run(run).await.unwrap().revision.number < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let out = cluster.folder.path().join("ledger");
    let folder = out.to_str().unwrap();
    let url = cluster.url();
    let export = ["ledger", "export", "1", "--url", &url, "--out", folder];
    opengpu(&cluster.home(), &export);
    // Killed and started again it goes on with the same ledger, under the same key.
    cluster.restart_coordinator();
    cluster.wait_until_ready().await;
    let view = cluster.wait_until_settled(run, patience).await;
    let url = cluster.url();
    let export = ["ledger", "export", "1", "--url", &url, "--out", folder];
    opengpu(&cluster.home(), &export);

    let events = invariants::whole_log(&cluster.client(), run).await;
    let accepted =
        |event: &opengpu_rounds::Event| matches!(event.kind, EventKind::UpdateAccepted { .. });
    let accepted = events.iter().filter(|event| accepted(event)).count();
    let receipts: Vec<PathBuf> = (0..2)
        .map(|node| cluster.node_home(node).join("node/receipts/1"))
        .collect();
    let count = || receipts.iter().map(|folder| files(folder)).sum::<usize>();
    for _ in 0..300 {
        if count() == accepted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count(), accepted, "receipts");

    let key = receipts[0].join("ledger.key");
    let mut verify = vec![
        "ledger",
        "verify",
        folder,
        "--json",
        "--key",
        key.to_str().unwrap(),
    ];
    verify.push("--receipts");
    verify.extend(receipts.iter().map(|path| path.to_str().unwrap()));
    let report = opengpu(&cluster.home(), &verify);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    // A restart may make an update late: then its rejection is there as well.
    let rejected = report["totals"]["rejected"].as_u64().unwrap();
    assert_eq!(report["entries"], accepted as u64 + rejected);
    assert!(report["receipts"].as_u64().unwrap() >= accepted as u64);
    assert_eq!(report["totals"]["tokens"], view.tokens);
    let nodes = report["nodes"].as_array().unwrap();
    for worker in &view.workers {
        let node = nodes.iter().find(|node| node["node"] == worker.node.0);
        assert_eq!(node.unwrap()["tokens"], worker.credited_tokens);
    }

    // The coordinator's sums are those of the export.
    let sums = ["ledger", "sums", "--by", "node", "--json", "--url", &url];
    let sums: serde_json::Value = serde_json::from_str(&opengpu(&cluster.home(), &sums)).unwrap();
    for sum in sums.as_array().unwrap() {
        let node: u64 = sum["of"].as_str().unwrap().parse().unwrap();
        let exported = nodes.iter().find(|exported| exported["node"] == node);
        for field in ["tokens", "megaflops", "accepted", "rejected"] {
            assert_eq!(sum[field], exported.unwrap()[field], "{field} of {node}");
        }
    }
    let rebuilt = opengpu(
        &cluster.home(),
        &["ledger", "rebuild", "--json", "--url", &url],
    );
    let rebuilt: serde_json::Value = serde_json::from_str(&rebuilt).unwrap();
    assert_eq!(rebuilt["differed"], 0);

    // One digit more, and it holds no longer.
    let lines = out.join("ledger.jsonl");
    let text = std::fs::read_to_string(&lines).unwrap();
    std::fs::write(&lines, text.replacen("\"tokens\":", "\"tokens\":1", 1)).unwrap();
    let refused = std::process::Command::new(OPENGPU)
        .args(&verify)
        .arg("--home")
        .arg(cluster.home())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("does not hold"), "{said}");
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            // Those of rejections have a code in their names.
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".receipt"));
            name.is_some_and(|assignment| assignment.parse::<u64>().is_ok())
        })
        .count()
}
