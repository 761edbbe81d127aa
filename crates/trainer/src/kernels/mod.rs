//! The arithmetic of the fused operations, on plain slices of float32.
//!
//! Nothing here knows Burn. Every reduction runs in a fixed order that depends neither on
//! the number of threads nor on the width of the processor's vectors, and no fused
//! multiply-add is used outside the matrix products, so that only those decide the
//! trainer's numerics class.

pub mod adamw;
pub mod attention;
pub mod buffer;
pub mod exp;
pub mod loss;
pub mod matrix;
pub mod muon;
pub mod norm;
mod out_of_memory;
pub mod precision;
mod product;
pub mod rotary;
pub mod simd;
pub mod swiglu;

pub use out_of_memory::OutOfMemory;
