//! The process: requests in, replies out, one JSON object a line.
//!
//! A thread of its own reads, so that `finish` and `stop` are seen while another request is
//! being worked on, and so that the process ends with its parent: when the input closes,
//! work in progress is given up.

use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use opengpu_trainer_protocol::{ErrorCode, Reply, ReplyBody, Request, RequestBody};

use crate::device::{self, Wish};
use crate::error::TrainerError;
use crate::kernels::OutOfMemory;
use crate::memory::limit_memory;
use crate::session::Session;
use crate::train::Signals;

/// Longest line that is read; a request names files rather than holding their contents.
const MOST_LINE_BYTES: u64 = 16 << 20;

/// Requests that may wait.
const MOST_WAITING: usize = 64;

/// How long work in progress may take to notice that the input has closed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The trainer process on its standard streams; returns when told to stop or when the
/// input closes. The owner's limits come in environment variables: `OPENGPU_THREADS` (one per
/// core), `OPENGPU_MEMORY_BYTES` of a training step (most of what is free), `OPENGPU_DEVICE`
/// (see [`Wish`]), `OPENGPU_KERNELS` (a folder for what a GPU's backend compiled and measured).
pub fn run() -> anyhow::Result<()> {
    let threads = match whole_number("OPENGPU_THREADS")? {
        Some(threads) => usize::try_from(threads)?,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    if let Some(bytes) = whole_number("OPENGPU_MEMORY_BYTES")? {
        limit_memory(bytes);
    }
    let device = match std::env::var("OPENGPU_DEVICE") {
        Ok(text) => text.parse().context("OPENGPU_DEVICE")?,
        Err(_) => Wish::default(),
    };
    if let Some(folder) = std::env::var_os("OPENGPU_KERNELS") {
        device::keep_kernels(Path::new(&folder));
    }
    // The last resort against an orphan that is deep in a long computation.
    let on_close = || {
        device::forget_trial();
        std::thread::sleep(LAST_WORDS);
        std::process::exit(0);
    };
    let (input, output) = (std::io::stdin(), std::io::stdout());
    serve_with(input, output, threads, device, on_close)
}

/// The value of an environment variable, if it is set.
fn whole_number(name: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|&number| number > 0);
    let complaint = || format!("{name} is `{text}`; it must be a whole number of at least 1");
    number.with_context(complaint).map(Some)
}

/// The same on any pair of streams and any number of threads, on the CPU.
pub fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + Send,
    threads: usize,
) -> anyhow::Result<()> {
    serve_with(input, output, threads, Wish::Cpu, || {})
}

fn serve_with(
    input: impl Read + Send + 'static,
    output: impl Write + Send,
    threads: usize,
    device: Wish,
    on_close: impl FnOnce() + Send + 'static,
) -> anyhow::Result<()> {
    // Working inside the pool keeps all of the work on its threads: with one thread,
    // nothing ever waits for another to wake up.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("trainer-{index}"))
        .build()
        .context("The trainer's threads could not be started.")?;
    let signals = Arc::new(Signals::default());
    let (sender, receiver) = sync_channel(MOST_WAITING);
    let reader_signals = Arc::clone(&signals);
    std::thread::Builder::new()
        .name("requests".into())
        .spawn(move || {
            read_requests(input, &sender, &reader_signals);
            drop(sender);
            on_close();
        })
        .context("The thread that reads requests could not be started.")?;
    pool.install(move || answer(receiver, output, &signals, Session::new(device)))
}

/// A line of input, parsed.
enum Line {
    Request(Box<Request>),
    Bad { id: u64, message: String },
}

fn read_requests(input: impl Read, sender: &SyncSender<Line>, signals: &Signals) {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut input)
            .take(MOST_LINE_BYTES)
            .read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                let bad = Line::Bad {
                    id: id_of(&line),
                    message: error.to_string(),
                };
                if sender.send(bad).is_err() {
                    break;
                }
                continue;
            }
        };
        match request.body {
            RequestBody::Finish => {
                signals.finish.store(true, Ordering::Relaxed);
                continue;
            }
            RequestBody::Stop => break,
            // A `finish` counts for the assignment that was sent before it.
            RequestBody::Train(_) => signals.finish.store(false, Ordering::Relaxed),
            _ => {}
        }
        if sender.send(Line::Request(Box::new(request))).is_err() {
            break;
        }
    }
    signals.stop.store(true, Ordering::Relaxed);
}

/// The id of a line that is no request, so that its sender learns which one it was.
fn id_of(line: &[u8]) -> u64 {
    serde_json::from_slice::<serde_json::Value>(line)
        .ok()
        .and_then(|value| value.get("id")?.as_u64())
        .unwrap_or(0)
}

fn answer(
    receiver: Receiver<Line>,
    output: impl Write + Send,
    signals: &Signals,
    mut session: Session,
) -> anyhow::Result<()> {
    let output = Mutex::new(output);
    for line in receiver {
        if signals.stop.load(Ordering::Relaxed) {
            break;
        }
        let (id, body) = match line {
            Line::Bad { id, message } => {
                let message = format!("The line is no request: {message}");
                (
                    id,
                    ReplyBody::Error {
                        code: ErrorCode::BadRequest,
                        message,
                    },
                )
            }
            Line::Request(request) => {
                let id = request.id;
                let lost = Mutex::new(None);
                let report = |body| {
                    if let Err(error) = send(&output, id, body) {
                        *lock(&lost) = Some(error);
                        signals.stop.store(true, Ordering::Relaxed);
                    }
                };
                let result = catch_unwind(AssertUnwindSafe(|| {
                    session.handle(request.body, signals, &report)
                }));
                if let Some(error) = lock(&lost).take() {
                    return Err(error);
                }
                (
                    id,
                    result.map_or_else(|panic| panicked(&mut session, &panic), into_reply),
                )
            }
        };
        send(&output, id, body)?;
    }
    Ok(())
}

fn into_reply(result: Result<ReplyBody, TrainerError>) -> ReplyBody {
    result.unwrap_or_else(|error| ReplyBody::Error {
        code: error.code(),
        message: error.to_string(),
    })
}

/// A bug ends a request, not the process; what was loaded can't be trusted any more.
fn panicked(session: &mut Session, panic: &Box<dyn std::any::Any + Send>) -> ReplyBody {
    session.reset();
    if let Some(OutOfMemory { bytes }) = panic.downcast_ref() {
        return ReplyBody::Error {
            code: ErrorCode::OutOfMemory,
            message: format!(
                "Memory ran out ({bytes} bytes more could not be had); free memory, allow more \
                 (`join --memory`), or use a smaller model or a shorter context. Then load the \
                 model again."
            ),
        };
    }
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    ReplyBody::Error {
        code: ErrorCode::Failed,
        message: format!("The trainer failed unexpectedly ({text}); load the model again."),
    }
}

/// What another thread left behind when it panicked is as good as ever.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(output: &Mutex<impl Write>, id: u64, body: ReplyBody) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(&Reply { id, body })?;
    line.push(b'\n');
    let mut output = lock(output);
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .context("Nobody reads the replies.")
}
