//! Deciding: what follows from an input, as events. Pure; the state is not touched.

mod audit;
mod control;
mod members;
mod probe;
mod rollback;
mod rounds;
mod sight;
mod update;

use crate::{Compared, Decision, Event, EventKind, Fleet, Input, Refusal, Run};

/// A decision in the making: the state as it will be once the events so far are folded, so
/// that each next event is decided on what the ones before it made true.
struct Deciding<'a> {
    before: &'a Run,
    after: Option<Run>,
    now_ms: u64,
    fleet: &'a Fleet,
    events: Vec<Event>,
    reason: Option<String>,
}

/// Whether an input is granted.
type Granted = Result<(), Refusal>;

impl Run {
    /// What follows from `input` at `now_ms` on the coordinator's monotonic clock. After the
    /// input itself, everything that time and the state now allow is decided too (a round
    /// that closes, the next one that opens), so a caller never has to ask twice.
    pub fn decide(&self, now_ms: u64, input: &Input, fleet: &Fleet) -> Decision {
        let mut deciding = Deciding {
            before: self,
            after: None,
            now_ms: now_ms.max(self.last_event_ms),
            fleet,
            events: Vec::new(),
            reason: None,
        };
        let granted = deciding.on_input(input);
        deciding.advance();
        let reason = match (&granted, deciding.reason.take()) {
            (Err(refusal), _) => refusal.message.clone(),
            (Ok(()), Some(reason)) => reason,
            (Ok(()), None) => deciding.run().explanation(deciding.now_ms, fleet),
        };
        Decision {
            events: deciding.events,
            refusal: granted.err(),
            reason,
        }
    }
}

impl Deciding<'_> {
    fn run(&self) -> &Run {
        self.after.as_ref().unwrap_or(self.before)
    }

    /// Decides an event. The state is copied at the first one only: most inputs decide none.
    fn emit(&mut self, kind: EventKind) {
        let event = Event {
            at_ms: self.now_ms,
            kind,
        };
        let before = self.before;
        self.after
            .get_or_insert_with(|| before.clone())
            .fold(&event);
        self.events.push(event);
    }

    fn explain(&mut self, reason: impl Into<String>) {
        self.reason = Some(reason.into());
    }

    fn on_input(&mut self, input: &Input) -> Granted {
        match input {
            Input::Tick => Ok(()),
            Input::Start => self.start(),
            Input::Join {
                worker,
                node,
                feedback,
            } => self.join(*worker, *node, *feedback),
            Input::FeedbackReset { worker, feedback } => self.reset_feedback(*worker, *feedback),
            Input::Leave { worker, reason } => self.leave(*worker, reason),
            Input::Expel { worker, reason } => self.expel(*worker, reason),
            Input::Update { .. } => self.update(input),
            Input::Opened {
                assignment,
                worker,
                openings,
            } => self.opened(*assignment, *worker, *openings),
            Input::Audited {
                assignment,
                finding,
            } => self.audited(*assignment, finding),
            Input::MergeDone { .. } => self.merge_done(input),
            Input::MergeFailed { reason } => self.merge_failed(reason),
            Input::CheckpointDone {
                revision,
                weights,
                outer_state,
            } => self.checkpoint_done(*revision, *weights, *outer_state),
            Input::Pause { reason } => self.pause(reason),
            Input::Resume => self.resume(),
            Input::Stop { reason } => self.stop(reason),
            Input::RollBack { to, reason } => self.roll_back(*to, reason),
            Input::HeldOut(look) => self.held_out(look),
            Input::Probed { revision, trials } => self.probed(*revision, trials),
            Input::Readmit { worker } => self.readmit(*worker),
            Input::ReturnCredit {
                assignment,
                worker,
                tokens,
            } => self.return_credit(*assignment, *worker, *tokens),
        }
    }
}

fn refuse(code: &'static str, message: impl Into<String>) -> Granted {
    Err(Refusal {
        code,
        message: message.into(),
        compared: None,
    })
}

/// Of a refusal: the numbers that its check compared.
fn comparing(compared: Compared) -> impl FnOnce(Refusal) -> Refusal {
    move |refusal| Refusal {
        compared: Some(compared),
        ..refusal
    }
}
