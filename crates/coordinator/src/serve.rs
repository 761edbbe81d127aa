//! Starting and stopping: the home's lock, the port, the database, every run opened, then
//! the doors; on the way out the same in reverse.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use opengpu_rounds::{Hash, NodeId};
use opengpu_trainer_protocol::{SharedFolder, TrainerCommand};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::intake::Checker;
use crate::auth::{OperatorToken, Signatures};
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::connections::{self, Connections};
use crate::coordinator::{Coordinator, Inner};
use crate::driver::{Audits, LiveRun, Own, QUEUE, measure, open};
use crate::enrolment::EnrolmentPolicy;
use crate::fleet::{Fleet, NodeMemory};
use crate::home::{Home, JOIN_TOKEN, OPERATOR_TOKEN, new_token};
use crate::ledger::Signer;
use crate::limits::{LimitSettings, Limits};
use crate::metrics::Metrics;
use crate::store::{AccountRecord, ChangeRecord, LOCAL_LABEL, STEPS, Store};
use crate::tasks::Tasks;
use crate::trainer::Trainer;

/// How long open requests may take to end when the server stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Makes further routes (the portal's) once the coordinator they read from is there.
pub type ExtraRoutes = Box<dyn FnOnce(&Coordinator) -> Router + Send>;

/// How a coordinator is started.
pub struct ServeSettings {
    /// The installation's folder.
    pub home: PathBuf,
    /// Address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Database; None: `opengpu.db` in the home folder.
    pub database_url: Option<String>,
    /// Who may enrol.
    pub enrolment: EnrolmentPolicy,
    /// How often an address and a node may ask, and how many connections they may hold.
    pub limits: LimitSettings,
    /// What starts a trainer; None: runs whose weights need one can't be made.
    pub trainer: Option<TrainerCommand>,
    /// Further routes.
    pub extra_routes: Option<ExtraRoutes>,
    /// Stops the server when it is cancelled.
    pub shutdown: CancellationToken,
}

/// A coordinator that listens.
pub struct Bound {
    /// Where.
    pub addr: SocketAddr,
    /// The running server.
    pub coordinator: Coordinator,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Bound {
    /// Waits until the server has stopped, after `shutdown` was cancelled.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.serving.await.context("the server panicked")?
    }
}

/// Starts a coordinator. When this returns it listens and answers `/healthz`; `/readyz`
/// follows once every run is folded, which it is unless a run's log can't be read.
pub async fn serve(settings: ServeSettings) -> anyhow::Result<Bound> {
    let home = Home::open(&settings.home)?;
    let listener = listen(settings.listen).await?;
    let addr = listener.local_addr().context("the listening address")?;
    let operator = home.secret(OPERATOR_TOKEN)?;
    let store = Store::open(&database_url(&home, settings.database_url))
        .await
        .context("opening the database")?;
    let blobs = Blobs::open_folder(&home.path().join("blobs"))?;
    let shared = SharedFolder::of(home.path()).context("the folder for shared memory")?;
    remove_old_copies(&home);
    let (evaluations, queue) = mpsc::channel(QUEUE);
    // Two, so that neither an evaluation nor a sample waits for an audit.
    let trainer = Arc::new(Trainer::new(settings.trainer.clone()));
    let auditing = Arc::new(Trainer::new(settings.trainer));
    let audits = Audits::new(Own {
        blobs: blobs.clone(),
        trainer: Arc::clone(&auditing),
        shared: shared.clone(),
        base: None,
    });
    let coordinator = Coordinator::new(Inner {
        store: store.clone(),
        blobs,
        clock: Clock::new(),
        metrics: Metrics::new(),
        fleet: Fleet::default(),
        checker: Checker::default(),
        signatures: Signatures::new(store),
        operator: OperatorToken::new(&operator),
        enrolment: settings.enrolment,
        limits: Limits::new(&settings.limits),
        ledger: Signer::of(&home)?,
        trainer,
        auditing,
        shared,
        runs: Default::default(),
        evaluations,
        audits,
        plans: watch::Sender::new(0),
        learning: Default::default(),
        ready: false.into(),
        shutdown: settings.shutdown.child_token(),
        tasks: Tasks::new(),
        home,
    });
    join_token(&coordinator).await?;
    learn_nodes(&coordinator).await?;
    open_runs(&coordinator).await?;
    coordinator
        .tasks()
        .spawn(crate::caretaker::look_after_workers(coordinator.clone()));
    coordinator
        .tasks()
        .spawn(crate::caretaker::collect_blobs(coordinator.clone()));
    coordinator
        .tasks()
        .spawn(crate::caretaker::note_decay(coordinator.clone()));
    let measuring = tokio::spawn(measure(coordinator.clone(), queue));
    let extra = settings
        .extra_routes
        .map_or_else(Router::new, |make| make(&coordinator));
    let router = crate::api::router(&coordinator, extra);
    coordinator.set_ready();
    tracing::info!(%addr, enrolment = %settings.enrolment, home = %coordinator.home().display(), "listening");
    let connections = Connections::new(&settings.limits.connections, coordinator.metrics());
    let server = connections::serve(listener, router, connections, coordinator.shutdown_token());
    let serving = tokio::spawn(run_server(server, coordinator.clone(), measuring));
    Ok(Bound {
        addr,
        coordinator,
        serving,
    })
}

async fn run_server(
    server: impl Future<Output = ()> + Send + 'static,
    coordinator: Coordinator,
    measuring: JoinHandle<()>,
) -> anyhow::Result<()> {
    let shutdown = coordinator.shutdown_token();
    // However the server ends, all else ends with it.
    let ended = shutdown.clone().drop_guard();
    let mut server = tokio::spawn(async move {
        let _ended = ended;
        server.await;
    });
    shutdown.cancelled().await;
    tracing::info!("stopping");
    // Streams and drivers end by the token; requests in progress get a moment.
    let served = tokio::time::timeout(FAREWELL, &mut server).await;
    server.abort();
    let result = match served {
        Ok(served) => served.context("the server panicked"),
        Err(_elapsed) => Ok(()),
    };
    if tokio::time::timeout(FAREWELL, coordinator.tasks().finish())
        .await
        .is_err()
    {
        tracing::warn!(
            "something did not end within {} s and is left behind",
            FAREWELL.as_secs()
        );
    }
    measuring.abort();
    coordinator.trainer().end().await;
    coordinator.auditing().end().await;
    coordinator.store().clone().close().await?;
    coordinator.home_lock().release();
    tracing::info!("stopped");
    result
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "port {} of {} is taken by another program; choose another with --listen, \
             for example --listen {}:0 for any free one",
            address.port(),
            address.ip(),
            address.ip()
        ),
        Err(error) => Err(error).with_context(|| format!("listening on {address}")),
    }
}

fn database_url(home: &Home, asked: Option<String>) -> String {
    match asked {
        // A file's name ends where the address's options begin.
        Some(url) if url.starts_with("sqlite:") => url.split('?').next().unwrap_or(&url).to_owned(),
        Some(url) => url,
        None => format!("sqlite:{}", home.path().join("opengpu.db").display()),
    }
}

/// Copies of weights that a process before this one was killed over.
fn remove_old_copies(home: &Home) {
    let shared = home.path().join("shared");
    let in_memory = home.path().canonicalize().ok().map(|home| {
        let hash = blake3::hash(home.as_os_str().as_encoded_bytes()).to_hex();
        std::path::Path::new("/dev/shm").join(format!("opengpu-{}", &hash[..16]))
    });
    for folder in std::iter::once(shared).chain(in_memory) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("coordinator-")
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// The token with which agents on this machine enrol, made on first start.
async fn join_token(coordinator: &Coordinator) -> anyhow::Result<()> {
    let home = coordinator.home_lock();
    let store = coordinator.store();
    let token = home.read_secret(JOIN_TOKEN)?;
    // Who revoked it gets a new one with the next start.
    let known: Vec<Hash> = store
        .tokens()
        .await?
        .into_iter()
        .filter(|token| token.revoked_ms.is_none())
        .map(|token| token.hash)
        .collect();
    if token.is_some_and(|token| known.contains(&Hash::of(token.as_bytes()))) {
        return Ok(());
    }
    // The row first: a file that names no row would refuse every agent.
    let token = new_token();
    store
        .create_token(Hash::of(token.as_bytes()), LOCAL_LABEL, None, None)
        .await?;
    home.write_secret(JOIN_TOKEN, &token)
}

async fn learn_nodes(coordinator: &Coordinator) -> anyhow::Result<()> {
    let nodes = coordinator.store().nodes().await?;
    let workers = coordinator.store().workers().await?;
    let accounts = coordinator.store().accounts().await?.into_iter();
    let accounts: BTreeMap<u64, AccountRecord> = accounts.map(|owner| (owner.id, owner)).collect();
    let standings = coordinator.store().standings().await?;
    let standings: std::collections::BTreeMap<_, _> = standings.into_iter().collect();
    let newest_change = coordinator.store().newest_change().await?;
    let policy = coordinator.enrolment();
    let pasts = pasts(coordinator).await?;
    let mut memory = coordinator.fleet().lock();
    for node in nodes {
        coordinator.signatures().learn(&node);
        let known = NodeMemory {
            name: node.name,
            machine: node.machine,
            state: node.state,
            standing: standings.get(&node.id).copied().unwrap_or_default(),
            approved: policy.has_approved(node.admitted),
            newest_change,
            against: None,
            appeals: false,
            stream: 0,
            connected: false,
            account: node.account.and_then(|id| accounts.get(&id).cloned()),
        };
        let known = memory.nodes.entry(node.id).or_insert(known);
        if let Some(past) = pasts.get(&node.id) {
            known.hear(past);
        }
    }
    for worker in workers {
        memory.remember(worker.id, worker.node, worker.device, worker.offer);
    }
    Ok(())
}

/// The steps of the nodes that something was ever held against.
async fn pasts(coordinator: &Coordinator) -> anyhow::Result<BTreeMap<NodeId, Vec<ChangeRecord>>> {
    let store = coordinator.store();
    let mut pasts = BTreeMap::new();
    for node in store.nodes_with_a_past().await? {
        pasts.insert(node, store.changes_of(node, STEPS).await?);
    }
    Ok(pasts)
}

async fn open_runs(coordinator: &Coordinator) -> anyhow::Result<()> {
    let mut opened_runs = Vec::new();
    for record in coordinator.store().runs().await? {
        let id = record.id;
        let opened = open(coordinator.store(), id)
            .await
            .with_context(|| format!("opening run {id}; nothing was changed"))?;
        coordinator.clock().raise(opened.state.last_event_ms());
        let ownership = (opened.epoch, opened.head, opened.snapshot);
        let (run, mailbox) = LiveRun::new(id, record.spec, record.dataset, opened.state)?;
        for stored in coordinator.store().evaluations(id).await? {
            run.losses()
                .evaluations
                .insert(stored.evaluation.revision, stored.evaluation);
        }
        for metric in coordinator.store().round_metrics(id, 1000).await? {
            run.losses().learn(&metric);
        }
        opened_runs.push((run, mailbox, ownership));
    }
    // The clock goes on from the newest event of all logs before anyone decides.
    coordinator.start_silence_from_now();
    for (run, mailbox, ownership) in opened_runs {
        coordinator.start_driving(run, mailbox, ownership);
    }
    Ok(())
}
