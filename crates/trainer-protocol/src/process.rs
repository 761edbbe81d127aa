//! A trainer child as its owner sees it: started, greeted, asked, watched, ended.
//!
//! The owner (agent or coordinator) survives whatever the trainer does: crash, hang, death
//! for want of memory, nonsense on its output. What went wrong comes back as a
//! [`TrainerError`] that says what was being done, why it ended, and the last lines of its
//! log. Starting it again is the owner's decision, not made here.
//!
//! One request is in progress at a time; [`TrainerProcess::finish`] may be called beside it.
//! Futures may be dropped at any point (in `tokio::select!`): lines are written and read
//! whole by tasks of their own, and a late reply to a request that nobody waits for any more
//! is skipped.
//!
//! **No orphans.** A trainer ends when its standard input closes, which happens however its
//! owner dies; it may take as long as one step. On Linux the kernel kills it at once as well
//! (`PR_SET_PDEATHSIG`). That signal follows the *thread* that started the child, and threads
//! of an async runtime come and go; so all children are started by one thread that lives as
//! long as the process (see `spawn.rs`). The child leads a process group of its own: Ctrl-C
//! in a terminal reaches the owner alone, which then ends training in order, and ending the
//! child ends what it started too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::sync::{Mutex, mpsc, watch};

use crate::lines::{LineError, read_replies};
use crate::log_tail::{LogTail, open_log};
use crate::spawn::{end_group, start};
use crate::{ErrorCode, Reply, ReplyBody, Request, RequestBody, TrainerError, VERSION};

/// What a trainer that was dropped has left to close its affairs.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How to start a trainer.
#[derive(Clone, Debug)]
pub struct TrainerCommand {
    /// The program, normally `std::env::current_exe()`.
    pub program: PathBuf,
    /// Its arguments, normally `trainer`.
    pub args: Vec<OsString>,
    /// Added to the environment, for example `OPENGPU_THREADS`.
    pub env: Vec<(OsString, OsString)>,
    /// Its standard error is appended here; past 8 MiB the file is set aside as `….old`.
    pub log: PathBuf,
    /// How long it may take to say hello (it may have to find and open a device).
    pub hello_within: Duration,
    /// How long it may be silent during a request, unless the request says otherwise.
    pub silence: Duration,
    /// Added to its niceness (Unix): 0 as its owner, 19 only when nobody else wants the
    /// processor. Set before it starts: on Linux a niceness belongs to a thread, and those
    /// that it has already keep theirs.
    pub niceness: i32,
}

impl TrainerCommand {
    /// A command with patience of 60 seconds for hello and 120 during a request.
    pub fn new(program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: log.into(),
            hello_within: Duration::from_secs(60),
            silence: Duration::from_secs(120),
            niceness: 0,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// What a trainer said of itself at hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// For example `burn-flex 0.1.0`.
    pub trainer: String,
    /// For example `CPU (2 threads)`.
    pub device: String,
    /// Inside one class the same assignment gives the same bytes.
    pub numerics_class: String,
}

/// A sign that a request goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// Its work has yet to begin.
    Preparing {
        /// What is done meanwhile, for people.
        what: String,
        /// For how long already.
        seconds: u64,
    },
    /// How far its work is.
    Progress(Progress),
}

/// How far the work of a request is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Blocks (or windows, or tokens) done.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Mean training loss since the last progress, in nats per token.
    pub loss: f64,
    /// Speed since the last progress.
    pub tokens_per_second: f64,
}

/// A running trainer. Dropping it kills the child.
#[derive(Debug)]
pub struct TrainerProcess {
    pid: u32,
    greeting: Greeting,
    silence: Duration,
    next_id: AtomicU64,
    requests: mpsc::Sender<Vec<u8>>,
    replies: Mutex<mpsc::Receiver<Result<Reply, LineError>>>,
    exit: watch::Receiver<Option<String>>,
    kill: mpsc::Sender<()>,
    log: LogTail,
}

impl TrainerProcess {
    /// Starts the program and greets it. Call it inside a tokio runtime.
    pub async fn spawn(command: &TrainerCommand) -> Result<Self, TrainerError> {
        Self::spawn_hearing(command, |_| ()).await
    }

    /// The same, handing on what it says of its preparations, which on a GPU may take a while.
    pub async fn spawn_hearing(
        command: &TrainerCommand,
        on_sign: impl FnMut(Sign),
    ) -> Result<Self, TrainerError> {
        let (log_file, log) = open_log(&command.log).map_err(|source| TrainerError::Log {
            path: command.log.clone(),
            source,
        })?;
        let cannot_start = |source| TrainerError::Start {
            program: command.program.clone(),
            source,
        };
        let mut child = start(command, log_file).await.map_err(cannot_start)?;
        let taken = (child.id(), child.stdin.take(), child.stdout.take());
        let (Some(pid), Some(stdin), Some(stdout)) = taken else {
            let source = std::io::Error::other("it ended before its pipes could be taken");
            return Err(cannot_start(source));
        };

        let (requests, to_write) = mpsc::channel(8);
        tokio::spawn(write_lines(stdin, to_write));
        // Small, so that a trainer that chatters is slowed down instead of remembered.
        let (to_reader, replies) = mpsc::channel(16);
        tokio::spawn(read_replies(stdout, to_reader));
        let (kill, kill_asked) = mpsc::channel(1);
        let (exited, exit) = watch::channel(None);
        tokio::spawn(watch_child(child, pid, kill_asked, exited));

        let mut process = Self {
            pid,
            greeting: Greeting {
                trainer: String::new(),
                device: String::new(),
                numerics_class: String::new(),
            },
            silence: command.silence,
            next_id: AtomicU64::new(1),
            requests,
            replies: Mutex::new(replies),
            exit,
            kill,
            log,
        };
        let hello = RequestBody::Hello { version: VERSION };
        let reply = process.ask(hello, command.hello_within, on_sign).await?;
        let ReplyBody::Hello {
            version,
            trainer,
            device,
            numerics_class,
        } = reply
        else {
            return Err(process.out_of_turn("hello", &reply).await);
        };
        if version != VERSION {
            process.kill().await;
            return Err(TrainerError::Version { theirs: version });
        }
        process.greeting = Greeting {
            trainer,
            device,
            numerics_class,
        };
        Ok(process)
    }

    /// What it said of itself.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Its process id, which stays its own until it was seen to end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Why it ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.exit.borrow().clone()
    }

    /// Asks and waits for the answer.
    pub async fn request(&self, body: RequestBody) -> Result<ReplyBody, TrainerError> {
        self.ask(body, self.silence, |_| ()).await
    }

    /// Asks, hands on signs of life as they come, and waits for the answer; waits its turn if
    /// another request is in progress. A trainer from which no line comes for as long as
    /// `silence` is taken to hang and is killed.
    pub async fn ask(
        &self,
        body: RequestBody,
        silence: Duration,
        mut on_sign: impl FnMut(Sign),
    ) -> Result<ReplyBody, TrainerError> {
        let mut replies = self.replies.lock().await;
        let doing = body.name();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let sent = self.requests.send(line_of(id, body)?);
        match tokio::time::timeout(silence, sent).await {
            Ok(Ok(())) => (),
            Ok(Err(_)) => return Err(self.exited(doing).await),
            Err(_) => return Err(self.silent(doing, silence).await),
        }
        loop {
            let reply = match tokio::time::timeout(silence, replies.recv()).await {
                Err(_) => return Err(self.silent(doing, silence).await),
                Ok(None) => return Err(self.exited(doing).await),
                Ok(Some(Err(error))) => return Err(self.nonsense(doing, error).await),
                Ok(Some(Ok(reply))) => reply,
            };
            if reply.id < id {
                continue; // It belongs to a request that was given up.
            }
            match reply.body {
                body if reply.id > id => return Err(self.out_of_turn(doing, &body).await),
                ReplyBody::Progress {
                    done,
                    of,
                    loss,
                    tokens_per_second,
                } => on_sign(Sign::Progress(Progress {
                    done,
                    of,
                    loss,
                    tokens_per_second,
                })),
                ReplyBody::Preparing { what, seconds } => {
                    on_sign(Sign::Preparing { what, seconds });
                }
                ReplyBody::Error { code, message } => {
                    return Err(TrainerError::Refused {
                        doing,
                        code,
                        message,
                    });
                }
                body => return Ok(body),
            }
        }
    }

    /// Tells a `Train` in progress to end after its current block; its own request gets the
    /// answer. Does nothing when nothing is being trained.
    pub async fn finish(&self) {
        // A trainer that is gone makes the request in progress fail, which says why.
        self.tell(RequestBody::Finish).await;
    }

    /// Asks it to end, gives it `patience`, then kills it. Returns why it ended.
    pub async fn stop(self, patience: Duration) -> String {
        let orderly = async {
            self.tell(RequestBody::Stop).await;
            wait_for_exit(self.exit.clone()).await
        };
        match tokio::time::timeout(patience, orderly).await {
            Ok(why) => why,
            Err(_) => self.kill().await,
        }
    }

    /// Kills it now. Returns why it ended, which is another reason if it was dead already.
    pub async fn kill(&self) -> String {
        let _ = self.kill.try_send(());
        wait_for_exit(self.exit.clone()).await
    }

    /// Sends what has no answer of its own.
    async fn tell(&self, body: RequestBody) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Ok(line) = line_of(id, body) {
            let _ = self.requests.send(line).await;
        }
    }

    async fn silent(&self, doing: &'static str, silence: Duration) -> TrainerError {
        self.kill().await;
        TrainerError::Silent {
            doing,
            seconds: silence.as_secs_f64(),
            log: self.log.last_lines(),
        }
    }

    async fn nonsense(&self, doing: &'static str, error: LineError) -> TrainerError {
        self.kill().await;
        TrainerError::Nonsense {
            doing,
            what: error.to_string(),
            log: self.log.last_lines(),
        }
    }

    async fn out_of_turn(&self, doing: &'static str, reply: &ReplyBody) -> TrainerError {
        let what = format!("it gave an answer that was not asked for: {reply:?}");
        self.nonsense(doing, LineError::OutOfTurn(what)).await
    }

    /// Its output has closed: it has ended, or it will be.
    async fn exited(&self, doing: &'static str) -> TrainerError {
        let ends = wait_for_exit(self.exit.clone());
        let why = match tokio::time::timeout(Duration::from_secs(2), ends).await {
            Ok(why) => why,
            Err(_) => {
                self.kill().await;
                "closed its output without ending, and was killed".to_owned()
            }
        };
        TrainerError::Exited {
            doing,
            why,
            log: self.log.last_lines(),
        }
    }

    /// Its log file.
    pub fn log_path(&self) -> &Path {
        self.log.path()
    }
}

/// A request's line. It fails for a path that is not UTF-8, which JSON can't carry.
fn line_of(id: u64, body: RequestBody) -> Result<Vec<u8>, TrainerError> {
    let doing = body.name();
    let mut line =
        serde_json::to_vec(&Request { id, body }).map_err(|error| TrainerError::Refused {
            doing,
            code: ErrorCode::BadRequest,
            message: format!("the request can't be written as JSON: {error}"),
        })?;
    line.push(b'\n');
    Ok(line)
}

async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        // A broken pipe means that it ended; whoever waits for an answer is told by the
        // other pipe, with the exit status.
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn watch_child(
    mut child: Child,
    pid: u32,
    mut kill_asked: mpsc::Receiver<()>,
    exited: watch::Sender<Option<String>>,
) {
    let why = tokio::select! {
        biased;
        status = child.wait() => crate::exit::describe(status),
        asked = kill_asked.recv() => {
            if asked.is_none() {
                // Dropped by its owner: its input has closed too, which it may notice.
                let _ = tokio::time::timeout(LAST_WORDS, child.wait()).await;
            }
            end_group(pid);
            let _ = child.kill().await;
            "was killed by its owner".to_owned()
        }
    };
    tracing::debug!(pid, why, "trainer ended");
    let _ = exited.send(Some(why));
}

async fn wait_for_exit(mut exit: watch::Receiver<Option<String>>) -> String {
    match exit.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "was left behind by a runtime that shut down".to_owned(),
    }
}
