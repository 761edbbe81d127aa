//! Going back, pausing, and people who change their minds.

use opengpu_protocol::operator::RunAction;
use opengpu_rounds::Revision;

use super::support::{Server, code, spec};
use super::worker::Worker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_gives_back_the_weights_of_its_checkpoint_and_training_goes_on() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let operator = server.operator();
    let run = server.start_run(&spec("first", "noise", 4, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    worker
        .work_until(run, |view| view.revision.number == 2)
        .await;
    let view = server
        .wait_for(run, "revision 2", |view| view.revision.number >= 2)
        .await;
    let digest_of_two = operator
        .history(
            run,
            Revision {
                lineage: 0,
                number: 1,
            },
        )
        .await
        .unwrap()
        .merges;
    let digest_of_two = digest_of_two
        .iter()
        .find(|merge| merge.revision.number == 2)
        .unwrap()
        .digest;
    worker
        .work_until(run, |view| view.revision.number == 3)
        .await;

    operator.act_on_run(run, RunAction::Pause).await.unwrap();
    assert_eq!(
        code(operator.act_on_run(run, RunAction::Start).await),
        "run_paused"
    );
    operator
        .rollback(
            run,
            Revision {
                lineage: 0,
                number: 2,
            },
        )
        .await
        .unwrap();
    let back = operator.run(run).await.unwrap();
    assert_eq!(
        (back.revision, back.digest),
        (
            Revision {
                lineage: 1,
                number: 2
            },
            digest_of_two
        )
    );
    assert_eq!(
        back.tokens,
        server.wait_for(run, "tokens", |_| true).await.tokens
    );
    assert!(back.tokens >= view.tokens, "credit is kept");

    if back.phase == "paused" {
        operator.act_on_run(run, RunAction::Resume).await.unwrap();
    }
    // The agent starts a new life of its error feedback after a rollback.
    worker.feedback.0 += 1;
    worker.held = None;
    worker
        .work_until(run, |view| view.phase == "finished")
        .await;
    let view = operator.run(run).await.unwrap();
    assert_eq!(
        view.revision,
        Revision {
            lineage: 1,
            number: 4
        }
    );
}
