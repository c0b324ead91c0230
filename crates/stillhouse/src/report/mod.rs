//! What a job bought, for people and programs.
//!
//! Modules in reading order:
//!
//! | module | reason |
//! |---|---|
//! | [`summary`] | the documented, stable `summary.json`: everything below is drawn from it |
//! | [`verdict`] | the student against the random control at equal queries |
//! | [`history`] | the jobs of a folder, newest first |
//! | [`comparison`] | two jobs at equal queries |
//! | [`number`] | one way to write a number |
//! | [`picture`] | images as small PNG files, the contact sheet |
//! | [`burn`] | what was billed when, in a few hundred points |
//! | [`projection`] | when a running job will end |
//! | [`html`] | `report.html`: one self-contained page |
//! | [`terminal`] | one line a round, the closing table, the status |
//! | [`progress`] | bars while a job runs |

pub mod burn;
pub mod comparison;
pub mod history;
pub mod html;
pub mod number;
pub mod picture;
pub mod progress;
pub mod projection;
pub mod summary;
pub mod terminal;
pub mod verdict;

#[cfg(test)]
pub(crate) mod example;

pub use html::{Moment, Report, render};
pub use picture::{ContactSheet, Tile, png};
pub use progress::ProgressBars;
pub use summary::Summary;
