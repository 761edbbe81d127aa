//! A real Postgres for the tests: one private cluster for each run of this test binary, in
//! its own folder, reachable through a socket in that folder only, gone when the tests are.
//!
//! The server is started by a small shell script that waits for the end of its input, which
//! is a pipe held by this process. However the tests end (done, panicked, killed), the pipe
//! closes, and the script stops the server by its process id and removes the folder.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

const HOW_TO_INSTALL: &str = "These tests run on a real Postgres and found no `initdb` in PATH or \
    /usr/lib/postgresql/*/bin. Install one with `apt-get install postgresql` (it need not be started).";

/// `$1` folder of programs, `$2` folder of the cluster.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
"$1/initdb" --pgdata "$2/data" --username opengpu --auth trust --encoding UTF8 --locale C \
    --no-sync >"$2/log" 2>&1 || { read -r _; rm -rf "$2"; exit 1; }
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=400 \
    -c fsync=off -c shared_buffers=32MB >>"$2/log" 2>&1 &
server=$!
read -r _
kill -INT "$server"
wait "$server"
rm -rf "$2"
"#;

struct Cluster {
    folder: PathBuf,
    /// Its input is the pipe that keeps the server running.
    _script: Child,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Makes an empty database and gives its address.
pub async fn create_database() -> String {
    let cluster = CLUSTER.get_or_init(start);
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let admin = connect(cluster).await;
    admin
        .execute_unprepared(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    admin.close().await.unwrap();
    address(cluster, &name)
}

fn address(cluster: &Cluster, database: &str) -> String {
    format!(
        "postgres://opengpu@localhost/{database}?host={}",
        cluster.folder.display()
    )
}

async fn connect(cluster: &Cluster) -> DatabaseConnection {
    let started = Instant::now();
    loop {
        match Database::connect(address(cluster, "postgres")).await {
            Ok(connection) => return connection,
            Err(error) if started.elapsed() > Duration::from_secs(60) => {
                let log = std::fs::read_to_string(cluster.folder.join("log"));
                panic!("Postgres did not start within a minute: {error}\n{log:?}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn start() -> Cluster {
    let programs = find_programs().expect(HOW_TO_INSTALL);
    let folder = tempfile::Builder::new()
        .prefix("opengpu-postgres-")
        .tempdir()
        .unwrap()
        .keep();
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "sh"])
        .arg(&programs)
        .arg(&folder)
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    as_ordinary_user(&mut command, &folder);
    let mut script = command.spawn().unwrap();
    // A write that fails would mean that the script is gone already.
    script.stdin.as_mut().unwrap().flush().unwrap();
    Cluster {
        folder,
        _script: script,
    }
}

fn find_programs() -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default();
    let mut packaged: Vec<PathBuf> = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    packaged.sort();
    in_path
        .into_iter()
        .chain(packaged.into_iter().rev())
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// Postgres refuses to run as root, so a test that runs as root gives the cluster to `nobody`.
fn as_ordinary_user(command: &mut Command, folder: &Path) {
    use std::os::unix::{fs::MetadataExt, fs::chown, process::CommandExt};

    if std::fs::metadata(folder).unwrap().uid() != 0 {
        return;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let (user, group) = users
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, user, group) = (
                fields.next()?,
                fields.next()?,
                fields.next()?,
                fields.next()?,
            );
            (name == "nobody").then(|| (user.parse::<u32>(), group.parse::<u32>()))
        })
        .find_map(|ids| Some((ids.0.ok()?, ids.1.ok()?)))
        .expect("a user `nobody` to run Postgres as, since it refuses to run as root");
    chown(folder, Some(user), Some(group)).unwrap();
    command.uid(user).gid(group);
}
