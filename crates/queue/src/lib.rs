//! Moves references between processes.
