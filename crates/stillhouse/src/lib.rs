//! The roles without libtorch, and what the command line is made of.

pub mod report;
