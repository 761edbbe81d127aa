//! Signs of life while something is prepared that says nothing by itself, such as kernels
//! that a driver compiles.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use opengpu_trainer_protocol::ReplyBody;

/// Takes what is said while a request is worked on, from any thread.
pub type Reporter<'a> = &'a (dyn Fn(ReplyBody) + Sync);

/// Between two signs.
const INTERVAL: Duration = Duration::from_secs(1);

/// Signs end after so long: what has not begun by then hangs, and is to be taken for that.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// Says every second that `what` is done and for how long already, until `work` sets the flag
/// that it is given, or returns.
pub fn saying<T>(reply: Reporter, what: &str, work: impl FnOnce(&AtomicBool) -> T) -> T {
    let begun = &AtomicBool::new(false);
    let (end, ended) = channel::<()>();
    let start = Instant::now();
    let say = move || {
        while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let elapsed = start.elapsed();
            if begun.load(Ordering::Relaxed) || elapsed > LONGEST {
                return;
            }
            let what = format!("{what} ({} s)", elapsed.as_secs());
            reply(ReplyBody::Preparing { what });
        }
    };
    std::thread::scope(|scope| {
        // Ends also where `work` unwinds, as it owns the end of the channel.
        let end = end;
        scope.spawn(say);
        let result = work(begun);
        drop(end);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn signs_come_until_the_work_begins_or_ends_however_it_ends() {
        let said = Mutex::new(Vec::new());
        let reply = |body| said.lock().unwrap().push(body);
        let wait_for = |count: usize| {
            while said.lock().unwrap().len() < count {
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let result = saying(&reply, "warming up", |begun| {
            wait_for(1);
            begun.store(true, Ordering::Relaxed);
            std::thread::sleep(2 * INTERVAL);
            7
        });
        assert_eq!(result, 7);
        let first = ReplyBody::Preparing {
            what: "warming up (1 s)".into(),
        };
        assert_eq!(*said.lock().unwrap(), [first]);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            saying(&reply, "failing", |_| -> () {
                wait_for(2);
                panic!("in the work");
            });
        }));
        assert_eq!(
            *panic.unwrap_err().downcast_ref::<&str>().unwrap(),
            "in the work"
        );
    }
}
