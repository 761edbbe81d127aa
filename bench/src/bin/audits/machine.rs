//! Machines that compute the same in different ways: the numerics classes of one processor.

use opengpu_trainer::Form;
use opengpu_trainer_protocol::Precision;

/// How a machine computes.
#[derive(Clone, Copy)]
pub struct Machine {
    /// For people.
    pub name: &'static str,
    pub precision: Precision,
    /// Sequences of a micro-batch; None: the whole batch.
    pub micro_batch: Option<usize>,
    pub form: Form,
}

/// Most machines are like this one, and the worker of the second table.
pub const USUAL: Machine = Machine {
    name: "float32",
    precision: Precision::Float32,
    micro_batch: None,
    form: Form::Fused,
};

/// All of them. Unfused operations have no word in a numerics class: they are a build that calls
/// itself the same and computes otherwise.
pub const MACHINES: [Machine; 5] = [
    USUAL,
    Machine {
        name: "micro-batches of 4",
        micro_batch: Some(4),
        ..USUAL
    },
    Machine {
        name: "micro-batches of 1",
        micro_batch: Some(1),
        ..USUAL
    },
    Machine {
        name: "unfused",
        form: Form::Plain,
        ..USUAL
    },
    Machine {
        name: "bfloat16",
        precision: Precision::Bfloat16,
        ..USUAL
    },
];

/// Which of them audit the usual one: one of its class, one of another class in float32, and one
/// that computes in other numbers.
pub const AUDITORS: [usize; 3] = [0, 2, 4];
