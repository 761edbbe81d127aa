//! What the fuzz targets share. Each file in `src/bin` is one target, a program of its own:
//! what it reads, the inputs it starts from, and what must hold for every input.
//!
//! A target looks for more than a panic: what was read once is read again after it was
//! written, two ways to one result agree, and memory stays in proportion to the input.

mod corpus;
pub mod example;
mod input;
mod layouts;
mod memory;
mod messages;
mod spec;

pub use corpus::{Seed, start};
pub use input::Input;
pub use layouts::{LAYOUTS, layout, with_header};
pub use libfuzzer_sys;
pub use memory::within;
pub use messages::{Kind, attempt_message, check_seeds, read, reads, seed};
pub use spec::check_spec;

/// Makes a target of a function that lists its first inputs and one that tries an input.
#[macro_export]
macro_rules! target {
    ($seeds:expr, $attempt:expr) => {
        use $crate::libfuzzer_sys;
        libfuzzer_sys::fuzz_target!(init: $crate::start($seeds), |bytes: &[u8]| {
            $attempt(bytes)
        });
    };
}
