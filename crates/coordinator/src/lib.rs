//! The coordinator: API, node registry, run driver, datasets, storage.

pub mod blobs;
pub mod retention;
pub mod store;
