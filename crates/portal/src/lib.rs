//! The pages that people see: what a run is doing, live.
//!
//! Templates (askama) are filled from view structs, one for each template. The same handler
//! answers htmx with the part it asked for and everybody else with the whole page, so every
//! address survives a reload. A page has one event stream, which sends rendered parts; what
//! it needs of scripts and styles is compiled in, so a page asks no other host for anything.
//!
//! This crate reads runs through [`Source`] and changes nothing. It does not know where runs
//! are kept, who may see them, or how the server listens: the coordinator decides that.

mod assets;
mod error;
mod events;
mod headers;
mod humanize;
mod pages;
mod routes;
pub mod sample;
mod source;

pub use routes::router;
pub use source::Source;
