//! Readers of images, on real files and on generated ones.

mod hostile;
mod readers;
mod real_data;
mod refusals;
mod support;
