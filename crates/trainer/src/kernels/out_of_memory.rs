//! What a computation unwinds with when its device has no memory left.

/// The panic's payload: whoever started the computation catches it and tries with less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What was asked for.
    pub bytes: usize,
}

impl OutOfMemory {
    /// Leaves the computation; no message is printed, since this is expected and handled.
    pub fn unwind(bytes: usize) -> ! {
        std::panic::resume_unwind(Box::new(Self { bytes }))
    }
}
