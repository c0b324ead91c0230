//! Scores candidates of the pool.
