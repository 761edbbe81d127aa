//! The whole server over real HTTP: SQLite, blobs in a folder, a real trainer child, and
//! workers that speak through the product's own client.

mod accounts;
mod auditing;
mod auth;
mod authorisation;
mod blobs;
mod connections;
mod coverage;
mod enrolment;
mod keys;
mod lifecycle;
mod limits;
mod places;
mod probe;
mod ready;
mod rejections;
mod rollback;
mod stall;
mod standing;
mod sums;
mod support;
mod tokens;
mod worker;
