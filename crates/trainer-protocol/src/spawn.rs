//! Starting a child so that it can't outlive its owner, and ending it with all it started.

use std::fs::File;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::process::TrainerCommand;

/// Starts the command with pipes for requests and replies.
pub(crate) async fn start(command: &TrainerCommand, log: File) -> std::io::Result<Child> {
    let mut child = Command::new(&command.program);
    child
        .args(&command.args)
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .kill_on_drop(true);
    #[cfg(unix)]
    child.process_group(0);
    #[cfg(unix)]
    if command.niceness != 0 {
        let niceness = command.niceness;
        // SAFETY: the closure runs between fork and exec and makes one system call; it
        // neither allocates nor takes locks.
        unsafe { child.pre_exec(move || be_nice(niceness)) };
    }
    spawn(child).await
}

#[cfg(not(target_os = "linux"))]
async fn spawn(mut command: Command) -> std::io::Result<Child> {
    command.spawn()
}

/// The signal comes when the *thread* that called fork ends, so this thread never does. It
/// serves all trainers of the process; starting one takes about a millisecond.
#[cfg(target_os = "linux")]
async fn spawn(mut command: Command) -> std::io::Result<Child> {
    use std::sync::{Mutex, PoisonError, mpsc};
    use tokio::runtime::Handle;
    use tokio::sync::oneshot;

    type Job = Box<dyn FnOnce() + Send>;
    static STARTER: Mutex<Option<mpsc::SyncSender<Job>>> = Mutex::new(None);

    let owner = std::process::id();
    let die_with_owner = move || {
        // SAFETY: prctl and getppid are async-signal-safe system calls without pointers.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            // The owner may have died before prctl: then no signal will come.
            if libc::getppid() as u32 != owner {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes two system calls; it neither
    // allocates nor takes locks.
    unsafe { command.pre_exec(die_with_owner) };

    let (reply, answer) = oneshot::channel();
    let runtime = Handle::current();
    let job: Job = Box::new(move || {
        // tokio registers the child with the runtime of the thread that spawns it.
        let _inside = runtime.enter();
        // A caller that gave up drops the child, which kills it.
        let _ = reply.send(command.spawn());
    });
    {
        let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
        if starter.is_none() {
            let (jobs, todo) = mpsc::sync_channel::<Job>(64);
            std::thread::Builder::new()
                .name("trainer-starter".to_owned())
                .spawn(move || todo.into_iter().for_each(|job| job()))?;
            *starter = Some(jobs);
        }
        if let Some(jobs) = &*starter {
            let gone = |_| std::io::Error::other("the thread that starts trainers is gone");
            jobs.send(job).map_err(gone)?;
        }
    }
    answer
        .await
        .map_err(|_| std::io::Error::other("the thread that starts trainers is gone"))?
}

#[cfg(unix)]
fn be_nice(by: i32) -> std::io::Result<()> {
    // A request that is refused (only a privileged user may go below 0) changes nothing,
    // which is no reason not to train.
    // SAFETY: a system call without pointers.
    let _ = unsafe { libc::nice(by) };
    Ok(())
}

/// Kills the child's process group. Only call it before the child was waited for: until then
/// the id is its own.
#[cfg(unix)]
pub(crate) fn end_group(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: a system call without pointers.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

#[cfg(not(unix))]
pub(crate) fn end_group(_pid: u32) {}
