//! A fleet in simulated time.
