//! Whole-system tests live in tests/.

pub mod teacher;
