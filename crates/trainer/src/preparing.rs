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

/// Says every second that `what` is done and for how long already, until `work` sets the flag
/// that it is given, or returns; at the longest for `patience`, since what takes longer hangs and
/// is to be taken for that.
pub fn saying<T>(
    reply: Reporter,
    what: &str,
    patience: Duration,
    work: impl FnOnce(&AtomicBool) -> T,
) -> T {
    let begun = &AtomicBool::new(false);
    let (end, ended) = channel::<()>();
    let start = Instant::now();
    let say = move || {
        while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let elapsed = start.elapsed();
            if begun.load(Ordering::Relaxed) || elapsed > patience {
                return;
            }
            reply(ReplyBody::Preparing {
                what: what.to_owned(),
                seconds: elapsed.as_secs(),
            });
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
    fn signs_come_until_the_work_begins_or_ends_however_or_takes_too_long() {
        let said = Mutex::new(Vec::new());
        let reply = |body| said.lock().unwrap().push(body);
        let wait_for = |count: usize| {
            while said.lock().unwrap().len() < count {
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let long = Duration::from_secs(60);
        let result = saying(&reply, "warming up", long, |begun| {
            wait_for(1);
            begun.store(true, Ordering::Relaxed);
            std::thread::sleep(2 * INTERVAL);
            7
        });
        assert_eq!(result, 7);
        let first = ReplyBody::Preparing {
            what: "warming up".into(),
            seconds: 1,
        };
        assert_eq!(*said.lock().unwrap(), [first]);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            saying(&reply, "failing", long, |_| -> () {
                wait_for(2);
                panic!("in the work");
            });
        }));
        assert_eq!(
            *panic.unwrap_err().downcast_ref::<&str>().unwrap(),
            "in the work"
        );
        let before = said.lock().unwrap().len();
        saying(&reply, "hanging", Duration::ZERO, |_| {
            std::thread::sleep(2 * INTERVAL);
        });
        assert_eq!(said.lock().unwrap().len(), before);
    }
}
